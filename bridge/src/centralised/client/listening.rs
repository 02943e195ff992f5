//! Groups on black that re-key messages come to.

use super::*;

impl Client {
    /// Joins and leaves groups for re-key messages.
    pub(super) fn listen(&mut self) {
        let wanted: Vec<(IpAddr, u16)> = self.member.listens_to().collect();
        self.listening.retain(|place, _| wanted.contains(place));
        let mut failed = None;
        for place in wanted {
            if self.listening.contains_key(&place) {
                continue;
            }
            match socket::listening(&self.file.black.interface, self.address, place) {
                Ok(socket) => drop(self.listening.insert(place, socket)),
                Err(why) => failed = Some(why),
            }
        }
        if let (Some(why), false) = (&failed, self.deaf) {
            self.tell(EventKind::Failed, format!("re-key messages are not heard: {why}"));
        }
        self.deaf = failed.is_some();
    }
}

/// Waits until something can be received on one of these.
pub(super) async fn readable(socket: &UdpSocket, listening: &BTreeMap<(IpAddr, u16), UdpSocket>) {
    std::future::poll_fn(|context| {
        let mut all = std::iter::once(socket).chain(listening.values());
        match all.any(|socket| socket.poll_recv_ready(context).is_ready()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}
