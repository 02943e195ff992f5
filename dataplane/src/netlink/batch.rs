//! A netlink socket that asks in batches: for XFRM, the packet filter, and what must not go through the library.
//!
//! Sixty-four requests go in one send, and only the last asks for an acknowledgement; the kernel reports errors all the
//! same, each with the number of its request. To wait for each answer costs many times as much.

use std::{fmt, io};

use libc::{EINTR, MSG_DONTWAIT};
use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use zeroize::{Zeroize, Zeroizing};

use super::Erased;
use crate::{Direction, Error, SaId};

/// Requests in one send.
const BATCH: usize = 64;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel's messages are at most so large (`NLMSG_GOODSIZE` and what a dump asks for).
const RECEIVED: usize = 1 << 15;
/// An acknowledgement with the kernel's words.
const ANSWERED: usize = 1 << 12;
/// Room for what is sent at once: the packet filter with a thousand routers' prefixes.
const SENT: usize = 16 << 20;
/// NLMSGERR_ATTR_MSG: the kernel's own words about an error.
const ERROR_TEXT: u16 = 1;

/// A message without its header.
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) body: Erased,
    /// For an error: what was tried.
    pub(crate) what: What,
}

impl Request {
    /// With this message as its body.
    pub(crate) fn of(kind: u16, flags: u16, message: &impl Emitable, what: String) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Request { kind, flags: NLM_F_REQUEST | flags, body: body.into(), what: what.into() }
    }
}

/// What a request does, for people. Of an SA it is written when it is wanted: thousands come, and none is refused.
pub(crate) enum What {
    Text(String),
    AddSa(Direction, SaId),
    RemoveSa(SaId),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Text(text) => f.write_str(text),
            What::AddSa(direction, SaId { destination, spi }) => {
                write!(f, "adding the {} SA to {destination} with SPI {spi:#010x}", direction.as_str())
            }
            What::RemoveSa(SaId { destination, spi }) => {
                write!(f, "removing the SA to {destination} with SPI {spi:#010x}")
            }
        }
    }
}

impl From<String> for What {
    fn from(text: String) -> Self {
        What::Text(text)
    }
}

/// Of one thread at a time.
pub(crate) struct BatchSocket {
    socket: Socket,
    /// What it is known by in announcements of what it has changed.
    port: u32,
    sequence: u32,
}

/// One request that the kernel refused.
pub(crate) struct Refused {
    /// Which of those asked.
    pub(crate) at: usize,
    pub(crate) error: io::Error,
    what: String,
    /// The kernel's own words.
    text: Option<String>,
}

impl BatchSocket {
    /// `what` is told when it cannot be opened.
    pub(crate) fn open(protocol: isize, what: &str) -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            let port = socket.bind_auto()?.port_number();
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // A transaction goes in one send. Without the right to more the default has to do.
            let _ = setsockopt(&socket, sockopt::SndBufForce, &SENT);
            Ok((socket, port))
        };
        let (socket, port) = open().map_err(Error::io::<io::Error>(|| what.to_owned()))?;
        Ok(BatchSocket { socket, port, sequence: 0 })
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Carries out `requests` in order; those that the kernel refuses keep none of the others from it. Of an iterator no more are
    /// written than go at once.
    pub(crate) fn ask(&mut self, requests: impl IntoIterator<Item = Request>) -> Result<Vec<Refused>, Error> {
        let mut requests = requests.into_iter();
        let (mut batch, mut asked, mut refused) = (Vec::with_capacity(BATCH), 0, Vec::new());
        loop {
            batch.extend(requests.by_ref().take(BATCH));
            let Some(last) = batch.len().checked_sub(1) else { return Ok(refused) };
            let answers = self.ask_at_once(&batch, last)?;
            refused.extend(answers.into_iter().map(|one| Refused { at: asked + one.at, ..one }));
            asked += batch.len();
            batch.clear();
        }
    }

    /// Carries out all of `requests` or none; the first begins and the last ends the transaction.
    pub(crate) fn transact(&mut self, requests: &[Request]) -> Result<(), Error> {
        let refused = self.ask_at_once(requests, requests.len().saturating_sub(2))?;
        refused.into_iter().next().map_or(Ok(()), |one| Err(one.into()))
    }

    /// In one send; the answer to `last` is the end.
    fn ask_at_once(&mut self, requests: &[Request], last: usize) -> Result<Vec<Refused>, Error> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Erased::from(Vec::with_capacity(requests.iter().map(|r| HEADER + r.body.len()).sum::<usize>()));
        for (at, request) in requests.iter().enumerate() {
            let flags = if at == last { request.flags | NLM_F_ACK } else { request.flags };
            self.append(&mut bytes, request, flags);
        }
        let what = |at: usize| requests.get(at).map(|request| request.what.to_string()).unwrap_or_default();
        self.send(&bytes).map_err(Error::io(|| what(0)))?;
        let mut refused = Vec::new();
        // It brings back no key: `set_cap_ack`.
        let mut answer = Vec::with_capacity(ANSWERED);
        self.receive(&mut answer, |sequence, kind, payload| {
            if kind != NLMSG_ERROR {
                return Ok(true);
            }
            let at = sequence.wrapping_sub(first) as usize;
            let error = error_of(payload);
            // A transaction that cannot even begin ends there.
            let going = at != last && !(at == 0 && error.is_some() && last != requests.len() - 1);
            refused.extend(error.map(|(error, text)| Refused { at, error, what: what(at), text }));
            Ok(going)
        })
        .map_err(Error::io(|| what(0)))?;
        Ok(refused)
    }

    /// As [`ask`](Self::ask), where nothing may be refused but with one of the errors `forgiven`.
    pub(crate) fn demand(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
        forgiven: &[i32],
    ) -> Result<(), Error> {
        let refused = self.ask(requests)?;
        let first = refused.into_iter().find(|one| !one.error.raw_os_error().is_some_and(|e| forgiven.contains(&e)));
        first.map_or(Ok(()), |one| Err(one.into()))
    }

    /// Hands the payload of each message of a dump to `each`.
    pub(crate) fn dump(&mut self, request: &Request, each: impl FnMut(&[u8])) -> Result<(), Error> {
        self.question(request, request.flags | NLM_F_DUMP, each)
    }

    /// Hands what is asked for, one thing, to `each`.
    pub(crate) fn get(&mut self, request: &Request, each: impl FnMut(&[u8])) -> Result<(), Error> {
        self.question(request, request.flags, each)
    }

    fn question(&mut self, request: &Request, flags: u16, mut each: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, request, flags);
        let what = || request.what.to_string();
        self.send(&bytes).map_err(Error::io(what))?;
        // A dump of SAs brings their keys.
        let mut answer = Zeroizing::new(Vec::with_capacity(RECEIVED));
        let goes_on = flags & NLM_F_DUMP == NLM_F_DUMP;
        self.receive(&mut answer, |_, kind, payload| match kind {
            NLMSG_DONE => Ok(false),
            NLMSG_ERROR => error_of(payload).map_or(Ok(false), |(error, _)| Err(error)),
            _ => {
                each(payload);
                Ok(goes_on)
            }
        })
        .map_err(Error::io(what))
    }

    /// `struct nlmsghdr` and the request behind it.
    fn append(&mut self, bytes: &mut Vec<u8>, request: &Request, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let len = (HEADER + request.body.len()) as u32;
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&request.kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        // Bodies are padded to four octets.
        bytes.extend_from_slice(&request.body);
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // What an earlier question left behind belongs to nobody now.
        let mut rest = Vec::with_capacity(ANSWERED);
        while self.socket.recv(&mut rest, MSG_DONTWAIT).is_ok() {
            rest.zeroize();
        }
        self.socket.send(bytes, 0).map(drop)
    }

    /// Hands sequence number, kind and payload of what comes to `each`, until that says that it was the last.
    fn receive(
        &self,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(u32, u16, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        loop {
            buffer.clear();
            match self.socket.recv(buffer, 0) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(EINTR) => continue,
                Err(error) => return Err(error),
            }
            let mut going = true;
            for Message { sequence, kind, payload, .. } in messages(buffer) {
                going &= each(sequence, kind, payload)?;
            }
            if !going {
                return Ok(());
            }
        }
    }
}

impl From<Refused> for Error {
    fn from(Refused { error, what, text, .. }: Refused) -> Self {
        let text = text.map(|text| format!(" (the kernel says: {text})")).unwrap_or_default();
        Error::Io { what: format!("{what}{text}"), source: error }
    }
}

/// One of a datagram.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    /// Of the socket that asked for what is answered, or announced.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of one datagram.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let [a, b, c, d, kind, kind_high, _, _, s, t, u, v, p, q, r, o] = *header;
        let len = u32::from_ne_bytes([a, b, c, d]) as usize;
        let payload = bytes.get(HEADER..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        let (sequence, port) = (u32::from_ne_bytes([s, t, u, v]), u32::from_ne_bytes([p, q, r, o]));
        Some(Message { kind: u16::from_ne_bytes([kind, kind_high]), sequence, port, payload })
    })
}

/// The attributes of a message: kind and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, kind, kind_high] = *bytes.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([kind, kind_high]), value))
    })
}

/// What an NLMSG_ERROR says; `None`: all is well.
pub(crate) fn error_of(payload: &[u8]) -> Option<(io::Error, Option<String>)> {
    let code = i32::from_ne_bytes(*payload.first_chunk::<4>()?);
    if code == 0 {
        return None;
    }
    // Behind the error the header of the request alone (`set_cap_ack`: no key comes back), then the kernel's words.
    let text = attributes(payload.get(4 + HEADER..).unwrap_or_default()).find(|(kind, _)| *kind == ERROR_TEXT);
    let text = text.map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    Some((io::Error::from_raw_os_error(code.saturating_neg()), text))
}
