//! From a configuration to a client: what it needs is opened and started, in the order that keeps red from black.

use muster_fmke::crypto::SecretBytes;
use muster_fmke::member::{self, OneWaySettings};
use muster_fmke::phase1::{Liveness, ManualKey, Server};

use super::shown::identity_or;
use super::*;
use crate::centralised::SHORT_KEY;
use crate::centralised::phase1::proposals;
use crate::daemon::{own_prefixes, start_dataplane};
use crate::settings::{GcksAt, SettingsError, resolve};

impl Client {
    pub(super) fn start(config: &Path, file: File, address: IpAddr, outside: Outside) -> Result<Client, RunError> {
        let wanted = gcks_of(config, &file)?;
        let server = SocketAddr::new(wanted.address, wanted.port);
        let shown = Shown::load(config, wanted, address)?;
        // Without one it could be whoever shows a certificate.
        let expected = identity_or(wanted.identity.as_deref(), wanted.address, config)?;
        let own = own_prefixes(&file)?;
        let interface = &file.black.interface;
        let index = interface_index(interface).map_err(io_error(&format!("black.interface {interface}")))?;
        let port = wanted.local_port.unwrap_or(wanted.port);
        let socket = socket::unicast(interface, address, port, file.dataplane.hop_limit)
            .map_err(io_error("cannot open the socket for the key server"))?;
        outside.ledger.begin_anew();
        let running = start_dataplane(&file, address, None, &own, &outside.ledger)?;
        let mut seed = SecretBytes::zeros(32);
        getrandom::fill(seed.as_mut_bytes()).map_err(|error| io_error("random numbers")(error.into()))?;
        let mut numbers = None;
        let mut member = match wanted.return_channel {
            true => {
                let settings = member::Settings {
                    doi: wanted.doi,
                    address,
                    proposals: proposals(wanted.legacy),
                    credentials: shown.credentials(),
                    server: Server { address: server, secret: shown.secret.clone(), identity: Some(expected) },
                    liveness: Liveness::default(),
                };
                Member::new(now(), settings, &seed)
            }
            false => {
                let (settings, kept) = one_way(config, &file, wanted, address, &shown)?;
                numbers = Some(kept);
                Member::one_way(&settings, &seed)
            }
        };
        member.handle_timeout(now());
        info!(%address, %server, return_channel = wanted.return_channel, "started as a client of the key server");
        let flows = Flows::new(running, file.red.multicast.clone(), wanted.allow_bypass.clone());
        let mut client = Client {
            config: config.to_owned(),
            outside,
            file,
            member,
            flows,
            address,
            index,
            own_prefixes: own,
            server,
            connection: Connection::default(),
            shown,
            expiry: Expiry::default(),
            socket,
            listening: Listening::default(),
            numbers,
            forgetful: false,
            held_back: HeldBack::default(),
            buffer: vec![0; socket::LONGEST],
            refused: Refusals::default(),
            unsent: 0,
            worn: Worn::default(),
        };
        client.tell(EventKind::Started, String::new());
        client.tell(EventKind::Blocked, String::new());
        Ok(client)
    }
}

/// What is taken without a return channel: under the key that is shown, from the number on that was kept for it.
pub(super) fn one_way(
    config: &Path,
    file: &File,
    gcks: &GcksAt,
    address: IpAddr,
    shown: &Shown,
) -> Result<(OneWaySettings, Numbers), RunError> {
    let short = || io_error("gcks.secret_file")(io::Error::other(SHORT_KEY));
    let key = shown.secret.clone().and_then(|secret| ManualKey::new(secret).ok()).ok_or_else(short)?;
    let sa = key.sa(gcks.doi, gcks.address, address).id().octets();
    let numbers = Numbers::load(&resolve(config, &file.device.state_dir), sa);
    let numbers = numbers.map_err(io_error("device.state_dir"))?;
    let server = SocketAddr::new(gcks.address, gcks.port);
    Ok((OneWaySettings { doi: gcks.doi, address, server, key, next: numbers.next() }, numbers))
}

/// `[gcks]`, which was checked to be there.
pub(super) fn gcks_of<'a>(config: &Path, file: &'a File) -> Result<&'a GcksAt, SettingsError> {
    let missing = || SettingsError::Value {
        path: config.to_owned(),
        key: "gcks",
        message: "is missing: group.mode is \"centralised\"".into(),
    };
    file.gcks.as_ref().ok_or_else(missing)
}
