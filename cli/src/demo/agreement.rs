//! One group: all hold one key, and use it.

use std::time::Duration;

use crate::output::{Failure, because};

use super::laboratory::Laboratory;
use super::phases::Story;
use super::timeline::Moment;
use super::view::{Group, Status, activated};

impl Story<'_> {
    /// Waits until the routers in `present`, and no other, are one group whose key is wanted and in use.
    pub(super) fn agree(&mut self, present: &[usize], wanted: impl Fn(&Group) -> bool) -> Result<Group, Failure> {
        let Laboratory { routers, patience, hello_interval, .. } = &mut *self.laboratory;
        let count = present.len();
        // Discovery and exclusion take a few hellos; the rest is work on this machine's processors.
        let limit = Duration::from_secs(10) + *hello_interval * 10 + Duration::from_millis(500 * count as u64);
        let mut seen: Vec<Option<Status>> = Vec::new();
        let agreed = patience.wait(limit, || {
            seen = present.iter().map(|index| routers[*index].status()).collect::<Result<_, _>>()?;
            Ok(common(&seen, count).filter(|group| wanted(group)))
        })?;
        let Some(group) = agreed else {
            let states: Vec<String> = present
                .iter()
                .zip(&seen)
                .map(|(index, status)| format!("{}: {}", routers[*index].name(), describe(status.as_ref())))
                .collect();
            let odd = seen.iter().position(|status| status.as_ref().is_none_or(|status| status.group.members != count));
            let tail = routers[present[odd.unwrap_or_default()]].log_tail();
            return Err(because(format!(
                "no common group of {count} after {} s ({}){tail}",
                limit.as_secs(),
                states.join("; ")
            )));
        };
        self.report.epoch = Some(group.epoch);
        self.report.dataplane = seen.into_iter().flatten().next().map(|status| status.dataplane.backend);
        for index in present {
            self.report.rows[*index].key.clone_from(&group.key_fingerprint);
        }
        Ok(group)
    }

    /// When the last of them began to send under this group's key.
    pub(super) fn all_active(&mut self, present: &[usize], group: &Group) -> Result<Moment, Failure> {
        let mut last = Moment(0);
        for &index in present {
            let router = &mut self.laboratory.routers[index];
            let activated = activated(&router.events()?, group.epoch).ok_or_else(|| {
                let epoch = group.epoch;
                because(format!("{} says that it uses epoch {epoch}, but not since when", router.name()))
            })?;
            last = last.max(activated);
        }
        Ok(last)
    }
}

/// The group, if all are in the same one of this size and use its key.
fn common(all: &[Option<Status>], count: usize) -> Option<Group> {
    let first = &all.first()?.as_ref()?.group;
    let same = |status: &Option<Status>| {
        status.as_ref().is_some_and(|Status { group, .. }| {
            group.active && group.members == count && group.key_fingerprint == first.key_fingerprint
        })
    };
    all.iter().all(same).then(|| first.clone())
}

fn describe(status: Option<&Status>) -> String {
    let Some(Status { group: Group { epoch, members, key_fingerprint, active }, .. }) = status else {
        return "no answer".into();
    };
    let unused = if *active { "" } else { ", not in use" };
    format!("{members} members, epoch {epoch}, key {key_fingerprint}{unused}")
}
