//! Which messages a client without a return channel has taken: after a restart none of them is taken again.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::durable;

/// Below `device.state_dir`. In it, for each SA: its cookies, which come of the key, and the number of the next message. Nothing secret.
const NAME: &str = "one-way";
/// Of so many SAs, the latest first: a terminal may be given a former key again, or a former address.
const MOST: usize = 16;
/// Octets of the file, and more.
const LONGEST: u64 = 1024;

/// What is on the disk.
pub(super) struct Numbers {
    folder: PathBuf,
    sa: String,
    next: u32,
    /// Of other SAs.
    others: Vec<(String, u32)>,
}

impl Numbers {
    /// What was kept for this SA; for another, none was taken.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of ours.
    pub(super) fn load(folder: &Path, sa: [u8; 16]) -> io::Result<Numbers> {
        let path = folder.join(NAME);
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => _ = file.take(LONGEST + 1).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let sa = format!("{:032x}", u128::from_be_bytes(sa));
        let line = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [of, next] if of.len() == sa.len() => Some((of.to_owned(), next.parse().ok()?)),
            _ => None,
        };
        // One that was cut may end in a number that is too small.
        let is_whole = text.len() as u64 <= LONGEST;
        let known: Option<Vec<(String, u32)>> = text.lines().map(line).collect();
        let known = known.filter(|_| is_whole);
        let damaged = || io::Error::other(format!("{} is damaged: remove it once the key is another", path.display()));
        let (own, others): (Vec<_>, Vec<_>) = known.ok_or_else(damaged)?.into_iter().partition(|(of, _)| *of == sa);
        let next = own.into_iter().map(|(_, next)| next).max().unwrap_or(1);
        Ok(Numbers { folder: folder.to_owned(), sa, next, others })
    }

    /// The number of the next message.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// It is this from now on, also after a restart.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn keep(&mut self, next: u32) -> io::Result<()> {
        if next != self.next {
            let own = [(self.sa.clone(), next)];
            let lines = own.iter().chain(&self.others).take(MOST).map(|(sa, next)| format!("{sa} {next}\n"));
            durable::write(&self.folder, NAME, lines.collect::<String>().as_bytes())?;
            self.next = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_number_stays_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let load = |sa: u8| Numbers::load(&state, [sa; 16]);
        let mut numbers = load(1).unwrap();
        assert_eq!(numbers.next(), 1);
        numbers.keep(1_700_000_000).unwrap();
        assert_eq!((load(1).unwrap().next(), load(2).unwrap().next()), (1_700_000_000, 1));
        load(2).unwrap().keep(7).unwrap();
        assert_eq!(load(2).unwrap().next(), 7);
        // That of a former key stays, as long as there are few.
        assert_eq!(load(1).unwrap().next(), 1_700_000_000);
        for sa in 3..=MOST as u8 + 1 {
            load(sa).unwrap().keep(u32::MAX).unwrap();
        }
        assert_eq!([1, 2, 3].map(|sa| load(sa).unwrap().next()), [1, 7, u32::MAX]);
        assert!(fs::read(state.join(NAME)).unwrap().len() < LONGEST as usize);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let of = "01".repeat(16);
        let long = format!("{of} 7\n").repeat(LONGEST as usize / 35 + 1);
        for text in ["x", &format!("{of} -1"), "0101 7", &format!("{of} 7 8"), &long] {
            fs::write(folder.path().join(NAME), text).unwrap();
            assert!(Numbers::load(folder.path(), [1; 16]).is_err_and(|error| error.to_string().contains(NAME)));
            assert_eq!(fs::read_to_string(folder.path().join(NAME)).unwrap(), *text);
        }
        // Without a folder to write to nothing is kept, and that is said.
        fs::write(folder.path().join(NAME), "").unwrap();
        let mut numbers = Numbers::load(folder.path(), [1; 16]).unwrap();
        numbers.folder = folder.path().join(NAME);
        assert!(numbers.keep(9).is_err());
        assert_eq!(numbers.next(), 1);
    }
}
