//! From a configuration to a client: what it needs is opened and started, in the order that keeps red from black.

use caps::Capability;
use muster_dataplane::{Backend, EspConfig, enable_forwarding};
use muster_fmke::crypto::SecretBytes;
use muster_fmke::isakmp::Identity;
use muster_fmke::member::{self, OneWaySettings};
use muster_fmke::phase1::{Credentials, Liveness, ManualKey, Server};

use super::*;
use crate::centralised::phase1::{identity, proposals};
use crate::centralised::{SHORT_KEY, read_secret};
use crate::daemon::own_prefixes;
use crate::settings::{GcksAt, SettingsError};

impl Outside {
    /// Opens what others ask at, and gives up what is not needed after that.
    pub(super) fn open(config: &Path, file: &File, set_level: SetLevel) -> Result<Outside, RunError> {
        let signals = Signals::listen().map_err(io_error("cannot listen for signals"))?;
        let watch = Watch::start().map_err(io_error("cannot watch the interfaces"))?;
        let rollback = Rollback::watch().map_err(io_error("cannot watch for a new VM generation"))?;
        let control = folder(config).join(&file.device.control);
        let server = control::Server::bind(&control).map_err(io_error("control socket"))?;
        let (ask, asked) = mpsc::channel(16);
        let (followers, _) = broadcast::channel(256);
        tokio::spawn(server.serve(ask, followers.clone()));
        // NET_BIND_SERVICE: re-key messages may come to ports below 1024, and the address may change.
        keep_only(&[Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_NET_BIND_SERVICE])
            .map_err(|error| RunError::Io { what: "capabilities".into(), error: io::Error::other(error) })?;
        Ok(Outside {
            config: config.to_owned(),
            signals,
            watch,
            rollback,
            notifier: Notifier::default(),
            asked,
            report: Report::new(followers),
            set_level,
            ledger: KeyLedger::new(),
            begun: Instant::now(),
        })
    }

    /// Waits for an address on black, and lets nobody else wait for it meanwhile. `None`: told to end before.
    pub(super) async fn next_address(&mut self, file: &File) -> Result<Option<IpAddr>, RunError> {
        // Until a data plane runs, which takes it: nobody unblocks meanwhile.
        let _claim = Claim::take(file.dataplane.instance)?;
        let interface = &file.black.interface;
        self.notifier.status(format!("waiting for an address on {interface}"));
        let mut address = std::pin::pin!(first_address(file, &self.watch, &mut self.signals));
        let mut alive = alive_interval().map(every);
        loop {
            tokio::select! {
                found = &mut address => return found,
                Some((_, answer)) = self.asked.recv() => {
                    // Whoever asked may be gone.
                    let _ = answer.send(Err(format!("no client now: waiting for an address on {interface}")));
                }
                () = tick(&mut alive) => self.notifier.alive(),
            }
        }
    }
}

impl Client {
    pub(super) fn start(file: &File, address: IpAddr, outside: Outside) -> Result<Client, RunError> {
        let wanted = gcks_of(&outside.config, file)?;
        let server = SocketAddr::new(wanted.address, wanted.port);
        let secret =
            wanted.secret_file.as_ref().map(|path| read_secret(&folder(&outside.config).join(path))).transpose()?;
        let (certificates, credentials) = shown(&outside.config, wanted, address)?;
        // Without one it could be whoever shows a certificate.
        let expected = identity_or(wanted.identity.as_deref(), wanted.address, &outside.config)?;
        let own = own_prefixes(file)?;
        let interface = &file.black.interface;
        let index = interface_index(interface).map_err(io_error(&format!("black.interface {interface}")))?;
        let port = wanted.local_port.unwrap_or(wanted.port);
        let socket = socket::unicast(interface, address, port, file.dataplane.hop_limit)
            .map_err(io_error("cannot open the socket for the key server"))?;
        let config = EspConfig {
            device: file.dataplane.device.clone(),
            black_interface: interface.clone(),
            black_address: address,
            group_address: None,
            hop_limit: file.dataplane.hop_limit,
            copy_dscp: file.dataplane.copy_dscp,
            clear_df: file.red.clear_df,
            reds: file.red.interfaces.clone(),
            red_multicast: file.red.multicast.clone(),
            dynamic_membership: file.red.membership == "dynamic",
            own_prefixes: own.clone(),
            instance: file.dataplane.instance,
            workers: file.dataplane.workers,
            ledger: outside.ledger.clone(),
        };
        // It was checked to be one.
        let backend = file.dataplane.backend.parse().unwrap_or(Backend::Auto);
        let running = muster_dataplane::start(backend, config)?;
        info!(backend = running.dataplane.backend(), reason = running.reason, "the data plane is chosen");
        // The tunnel's device is there now, and the red interfaces may have come up meanwhile.
        let block = file.block_config(own.clone());
        muster_dataplane::block(&block)?;
        muster_dataplane::unblock_others(&block)?;
        // Not before the block stands, on interfaces that are there: a slip of the pen makes no router of a machine.
        enable_forwarding(interface)?;
        let mut seed = SecretBytes::zeros(32);
        getrandom::fill(seed.as_mut_bytes()).map_err(|error| io_error("random numbers")(error.into()))?;
        let mut numbers = None;
        let mut member = match wanted.return_channel {
            true => {
                let settings = member::Settings {
                    doi: wanted.doi,
                    address,
                    proposals: proposals(wanted.legacy),
                    credentials,
                    server: Server { address: server, secret, identity: Some(expected) },
                    liveness: Liveness::default(),
                };
                Member::new(now(), settings, &seed)
            }
            false => {
                let short = || io_error("gcks.secret_file")(io::Error::other(SHORT_KEY));
                let key = secret.and_then(|secret| ManualKey::new(secret).ok()).ok_or_else(short)?;
                let folder = folder(&outside.config).join(&file.device.state_dir);
                let sa = key.sa(wanted.doi, server.ip(), address).id().octets();
                let kept = Numbers::load(&folder, sa).map_err(io_error("device.state_dir"))?;
                let settings = OneWaySettings { doi: wanted.doi, address, server, key, next: kept.next() };
                numbers = Some(kept);
                Member::one_way(&settings, &seed)
            }
        };
        member.handle_timeout(now());
        info!(%address, %server, return_channel = wanted.return_channel, "started as a client of the key server");
        let mut client = Client {
            outside,
            file: file.clone(),
            member,
            flows: Flows::new(running, file.red.multicast.clone(), wanted.allow_bypass.clone()),
            address,
            index,
            own_prefixes: own,
            server,
            certificates,
            expiry: Expiry::default(),
            socket,
            listening: BTreeMap::new(),
            deaf: false,
            numbers,
            forgetful: false,
            buffer: vec![0; socket::LONGEST],
            refused: 0,
            worn: Worn::default(),
        };
        client.tell(EventKind::Started, String::new());
        client.tell(EventKind::Blocked, String::new());
        Ok(client)
    }
}

/// What a client at this address shows the key server, and whose certificates it takes.
pub(super) fn shown(
    config: &Path,
    gcks: &GcksAt,
    address: IpAddr,
) -> Result<(Certificates, Credentials), SettingsError> {
    let certificates = Certificates::load(config, gcks.named())?;
    let identity = identity_or(gcks.local_identity.as_deref(), address, config)?;
    certificates.check_identity(&identity)?;
    let credentials = Credentials { identity, certificates: certificates.own() };
    Ok((certificates, credentials))
}

/// What a configuration says, which was checked, or the address.
fn identity_or(text: Option<&str>, address: IpAddr, config: &Path) -> Result<Identity, SettingsError> {
    let wrong = |message| SettingsError::Value { path: config.to_owned(), key: "gcks", message };
    text.map_or(Ok(Identity::Address(address)), |text| identity(text).map_err(wrong))
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

pub(super) fn folder(config: &Path) -> &Path {
    config.parent().unwrap_or(Path::new("."))
}
