//! From a configuration to a client: what it needs is opened and started, in the order that keeps red from black.

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

impl Client {
    pub(super) fn start(config: &Path, file: File, address: IpAddr, outside: Outside) -> Result<Client, RunError> {
        let wanted = gcks_of(config, &file)?;
        let server = SocketAddr::new(wanted.address, wanted.port);
        let secret = wanted.secret_file.as_ref().map(|path| read_secret(&folder(config).join(path))).transpose()?;
        let (certificates, credentials) = shown(config, wanted, address)?;
        // Without one it could be whoever shows a certificate.
        let expected = identity_or(wanted.identity.as_deref(), wanted.address, config)?;
        let own = own_prefixes(&file)?;
        let interface = &file.black.interface;
        let index = interface_index(interface).map_err(io_error(&format!("black.interface {interface}")))?;
        let port = wanted.local_port.unwrap_or(wanted.port);
        let socket = socket::unicast(interface, address, port, file.dataplane.hop_limit)
            .map_err(io_error("cannot open the socket for the key server"))?;
        let esp = EspConfig {
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
        let running = muster_dataplane::start(backend, esp)?;
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
                let folder = folder(config).join(&file.device.state_dir);
                let sa = key.sa(wanted.doi, server.ip(), address).id().octets();
                let kept = Numbers::load(&folder, sa).map_err(io_error("device.state_dir"))?;
                let settings = OneWaySettings { doi: wanted.doi, address, server, key, next: kept.next() };
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
