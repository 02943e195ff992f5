//! What the kernel's XFRM counts, for all of a network namespace: other IPsec on this router is among it.

use std::fs::File;
use std::io::{Read, Seek};

use crate::{Dropped, Error};

/// `/proc/net/xfrm_stat` of the network namespace that it was opened in.
pub(super) struct Statistics {
    file: File,
    /// What others had come to before us.
    before: Dropped,
}

impl Statistics {
    pub(super) fn open() -> Result<Self, Error> {
        let path = "/proc/thread-self/net/xfrm_stat";
        let file =
            File::open(path).map_err(Error::io(|| format!("{path}: a kernel with XFRM statistics is needed")))?;
        let mut statistics = Statistics { file, before: Dropped::default() };
        statistics.before = statistics.read();
        Ok(statistics)
    }

    /// Since it was opened.
    pub(super) fn dropped(&mut self) -> Dropped {
        let (now, before) = (self.read(), self.before);
        // Counters of the namespace; unreadable ones are zero.
        let since = u64::saturating_sub;
        Dropped {
            replay: since(now.replay, before.replay),
            auth: since(now.auth, before.auth),
            unknown_spi: since(now.unknown_spi, before.unknown_spi),
            spoofed: since(now.spoofed, before.spoofed),
            too_big: since(now.too_big, before.too_big),
            no_sa: since(now.no_sa, before.no_sa),
            malformed: since(now.malformed, before.malformed),
            ecn: since(now.ecn, before.ecn),
            io: since(now.io, before.io),
        }
    }

    fn read(&mut self) -> Dropped {
        let mut text = String::new();
        // Unreadable: nothing was counted.
        let _ = self.file.rewind().and_then(|()| self.file.read_to_string(&mut text));
        parse(&text)
    }
}

/// Documentation/networking/xfrm_proc.rst says which is which.
fn parse(text: &str) -> Dropped {
    let mut dropped = Dropped::default();
    for (name, count) in text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace)) {
        let counter = match name {
            "XfrmInStateSeqError" => &mut dropped.replay,
            "XfrmInStateProtoError" => &mut dropped.auth,
            "XfrmInNoStates" => &mut dropped.unknown_spi,
            "XfrmInTmplMismatch" | "XfrmInNoPols" | "XfrmInPolBlock" | "XfrmInStateMismatch" => &mut dropped.spoofed,
            // Not XfrmOutPolBlock: what policies of ours stop the interface counts.
            "XfrmOutNoStates" | "XfrmOutStateSeqError" | "XfrmOutStateExpired" => &mut dropped.no_sa,
            "XfrmInHdrError" | "XfrmInStateModeError" => &mut dropped.malformed,
            "XfrmInError"
            | "XfrmInBufferError"
            | "XfrmOutError"
            | "XfrmOutBundleGenError"
            | "XfrmOutBundleCheckError"
            | "XfrmOutStateProtoError"
            | "XfrmOutStateModeError"
            | "XfrmOutStateInvalid" => &mut dropped.io,
            _ => continue,
        };
        *counter += count.trim().parse::<u64>().unwrap_or(0);
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_names() {
        let text = "XfrmInError             \t0\nXfrmInNoStates          \t3\nXfrmInStateSeqError     \t2\n\
                    XfrmInTmplMismatch      \t1\nXfrmInNoPols            \t4\nXfrmFwdHdrError         \t9\n";
        let expected = Dropped { unknown_spi: 3, replay: 2, spoofed: 5, ..Dropped::default() };
        assert_eq!(parse(text), expected);
    }
}
