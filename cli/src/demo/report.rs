//! What comes out of the demo: one JSON object, or a table.

use std::fmt;

use serde::Serialize;

use crate::show;

use super::timeline::Entry;

/// The fields are those of `demo` in the interface; what was not reached is null, or as at the start.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) ok: bool,
    pub(crate) routers: usize,
    pub(crate) dataplane: Option<String>,
    pub(crate) timeline: Vec<Entry>,
    /// From the first start of a daemon until all send under one key.
    pub(crate) formed_ms: Option<u64>,
    /// For each router, from its start until it sends under a key that it shares with another.
    pub(crate) join_ms: Vec<Option<u64>>,
    /// The last one that all routers agreed on.
    pub(crate) epoch: Option<u64>,
    pub(crate) multicast: Multicast,
    pub(crate) black: Black,
    pub(crate) leave: Leave,
    /// From the new start of the router until all send under one key again.
    pub(crate) restore_ms: Option<u64>,
    /// For the table.
    #[serde(skip)]
    pub(crate) rows: Vec<Row>,
}

/// Three times the same number of datagrams is sent, after one that opens the flow: to all, to those that remain, to all
/// again.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Multicast {
    /// Each time.
    pub(crate) sent: u64,
    /// The least that any receiver got any time.
    pub(crate) received_min: u64,
    /// The most there were at a time.
    pub(crate) receivers: usize,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Black {
    pub(crate) packets: u64,
    pub(crate) esp: u64,
    pub(crate) cleartext: u64,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Leave {
    /// From the kill until the first of the others noticed.
    pub(crate) detected_ms: Option<u64>,
    /// From the kill until all others send under a key that the dead one never held.
    pub(crate) rekeyed_ms: Option<u64>,
    pub(crate) excluded: bool,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) nation: String,
    pub(crate) red: String,
    /// In each of the three flows; `None`: it was not there, or was the sender.
    pub(crate) received: [Option<u64>; 3],
    pub(crate) key: String,
}

impl Report {
    pub(crate) fn new(routers: usize) -> Self {
        Report { routers, join_ms: vec![None; routers], ..Report::default() }
    }

    pub(crate) fn json(&self) -> String {
        // Plain numbers and texts: there is no value that JSON has not.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
        let ms = |time: Option<u64>| time.map_or("-".to_owned(), |time| format!("{time} ms"));
        let columns =
            ["ROUTER", "NATION", "RED LAN", ">JOINED", ">RECEIVED", ">AFTER THE LOSS", ">AFTER THE RETURN", "KEY"];
        let rows = self.rows.iter().zip(&self.join_ms).map(|(row, joined)| {
            let mut cells = vec![row.name.clone(), row.nation.clone(), row.red.clone(), ms(*joined)];
            cells.extend(row.received.map(count));
            cells.push(row.key.clone());
            cells
        });
        let Report { multicast, black, leave, .. } = self;
        let summary = show::list([
            ("group formed", ms(self.formed_ms)),
            ("multicast", format!("{} sent each time, {} received at least", multicast.sent, multicast.received_min)),
            ("black", format!("{} packets, {} ESP, {} clear text", black.packets, black.esp, black.cleartext)),
            ("loss noticed", ms(leave.detected_ms)),
            (
                "new key",
                format!("{}, {}", ms(leave.rekeyed_ms), if leave.excluded { "excluded" } else { "NOT excluded" }),
            ),
            ("restored", ms(self.restore_ms)),
        ]);
        write!(f, "{}\n\n{summary}", show::table(&columns, rows))
    }
}
