//! A nation's certificates, as files. What they say is the business of `muster_certs::pki`.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_certs::{CertError, ListDescription, pki};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::args::PkiCommand;
use crate::output::{Failure, because, say};
use crate::show;

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const CRL: &str = "crl.pem";

pub(crate) fn run(command: &PkiCommand) -> Result<(), Failure> {
    match command {
        PkiCommand::Init { folder, name } => init(folder, name),
        PkiCommand::Issue { folder, name, days, out } => issue(folder, name, *days, out.as_deref()),
        PkiCommand::Revoke { folder, name } => revoke(folder, name),
        PkiCommand::Show { file, json } => show(file, *json),
    }
}

fn init(folder: &Path, organisation: &str) -> Result<(), Failure> {
    let root = pki::init(organisation, now()).map_err(|error| because(format!("--name {organisation:?}: {error}")))?;
    create_folder(folder)?;
    refuse_existing(&[folder.join(CA_CERTIFICATE), folder.join(CA_KEY), folder.join(CRL)])?;
    // The key first: of two who try at the same time only one gets it, and the other writes nothing.
    create(&folder.join(CA_KEY), &root.key_pem, SECRET)?;
    create(&folder.join(CA_CERTIFICATE), &root.certificate_pem, PUBLIC)?;
    create(&folder.join(CRL), &root.crl_pem, PUBLIC)?;
    say(format_args!(
        "{}: root of {organisation}; hand {CA_CERTIFICATE} and {CRL} to the partners, keep {CA_KEY} safe",
        folder.display()
    ))
}

fn issue(folder: &Path, device: &str, days: u32, out: Option<&Path>) -> Result<(), Failure> {
    let authority = Authority::read(folder)?;
    let issued = pki::issue(&authority.certificate, &authority.key, device, days, now()).map_err(|error| {
        because(match error {
            CertError::DeviceName => format!("--name {device:?}: {error}"),
            _ => format!("{}: {error}", folder.join(CA_CERTIFICATE).display()),
        })
    })?;
    let to = out.unwrap_or(folder);
    create_folder(to)?;
    let (certificate, key) = (to.join(format!("{device}.pem")), to.join(format!("{device}.key")));
    let copy = folder.join(format!("{device}.pem"));
    refuse_existing(&[copy.clone(), certificate.clone(), key.clone()])?;
    create(&key, &issued.key_pem, SECRET)?;
    create(&certificate, &issued.certificate_pem, PUBLIC)?;
    if copy != certificate && !copy.exists() {
        create(&copy, &issued.certificate_pem, PUBLIC)?;
    }
    say(format_args!("{}, {}", certificate.display(), key.display()))
}

fn revoke(folder: &Path, device: &str) -> Result<(), Failure> {
    let authority = Authority::read(folder)?;
    // Of two at the same time, the second must see the first one's list.
    let handle = File::open(folder).map_err(at(folder))?;
    let _lock = Flock::lock(handle, FlockArg::LockExclusive)
        .map_err(|(_, error)| because(format!("{}: {error}", folder.display())))?;
    let (crl, certificate) = (folder.join(CRL), folder.join(format!("{device}.pem")));
    let list = pki::revoke(&authority.certificate, &authority.key, &read(&crl)?, &read(&certificate)?, now())
        .map_err(|error| because(format!("{} or {}: {error}", certificate.display(), crl.display())))?;
    replace(&crl, &list)?;
    say(format_args!("{}: {device} is revoked; hand the list to all devices", crl.display()))
}

fn show(file: &Path, json: bool) -> Result<(), Failure> {
    let text = read(file)?;
    if text.contains("-----BEGIN X509 CRL-----") && !text.contains("-----BEGIN CERTIFICATE-----") {
        return show_list(&muster_certs::describe_list(&text).map_err(at(file))?, json);
    }
    let certificate = muster_certs::describe(&text).map_err(at(file))?;
    let fingerprint = certificate.fingerprint.to_string();
    let (from, until) = (date(certificate.not_before), date(certificate.not_after));
    if json {
        return say(json!({
            "subject": certificate.subject, "issuer": certificate.issuer, "not_before": from, "not_after": until,
            "fingerprint": fingerprint, "is_ca": certificate.is_ca, "serial": certificate.serial,
        }));
    }
    say(show::list([
        ("subject", certificate.subject),
        ("issuer", certificate.issuer),
        ("valid", format!("{from} to {until}")),
        ("fingerprint", fingerprint),
        ("serial", certificate.serial),
        ("authority", if certificate.is_ca { "yes" } else { "no" }.into()),
    ]))
}

fn show_list(list: &ListDescription, json: bool) -> Result<(), Failure> {
    let ListDescription { issuer, number, this_update, next_update, revoked } = list;
    let (this, next) = (date(*this_update), next_update.map(date));
    if json {
        return say(json!({
            "issuer": issuer, "number": number, "this_update": this, "next_update": next, "revoked": revoked,
        }));
    }
    let serials = if revoked.is_empty() { "nothing".into() } else { revoked.join(" ") };
    say(show::list([
        ("revocation list of", issuer.clone()),
        ("number", number.clone().unwrap_or("-".into())),
        ("issued", this),
        ("next update", next.unwrap_or("-".into())),
        ("revoked serials", serials),
    ]))
}

struct Authority {
    certificate: Zeroizing<String>,
    key: Zeroizing<String>,
}

impl Authority {
    fn read(folder: &Path) -> Result<Self, Failure> {
        let file = |name| {
            let path = folder.join(name);
            match path.exists() {
                true => read(&path),
                false => Err(because(format!("{}: no such file; make a root with muster pki init", path.display()))),
            }
        };
        Ok(Authority { certificate: file(CA_CERTIFICATE)?, key: file(CA_KEY)? })
    }
}

/// A whole file; it may be a key, so it is erased when dropped.
fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let file = File::open(path).map_err(at(path))?;
    // One allocation: growing would leave parts of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(MOST as usize));
    let length = file.take(MOST).read_to_string(&mut text).map_err(at(path))?;
    if length as u64 == MOST {
        return Err(because(format!("{}: too large for a certificate, key or list", path.display())));
    }
    Ok(text)
}

fn create_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(at(folder))
}

fn refuse_existing(paths: &[PathBuf]) -> Result<(), Failure> {
    match paths.iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        Some(path) => Err(exists(path)),
        None => Ok(()),
    }
}

/// Creates a file that is never seen half written, and never in the place of another.
fn create(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let file = temporary(path, text, mode)?;
    file.persist_noclobber(path).map_err(|error| match error.error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => at(path)(error.error),
    })?;
    Ok(())
}

/// The same, in the place of the old one.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    temporary(path, text, PUBLIC)?.persist(path).map_err(|error| at(path)(error.error))?;
    Ok(())
}

fn temporary(path: &Path, text: &str, mode: u32) -> Result<NamedTempFile, Failure> {
    // In the same folder, or it could not be renamed. It is created with mode 0600.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder).map_err(at(folder))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.as_file().sync_all())
        .map_err(at(path))?;
    Ok(file)
}

fn exists(path: &Path) -> Failure {
    because(format!("{}: exists already and is not overwritten; move it away first", path.display()))
}

fn at<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> Failure {
    move |error| because(format!("{}: {error}", path.display()))
}

fn date(unix: u64) -> String {
    // RFC 3339 ends with the year 9999, like humantime; certificates know no later date.
    let last = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix).min(last)).to_string()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;
/// More than any certificate chain or revocation list of a nation.
const MOST: u64 = 4 << 20;
