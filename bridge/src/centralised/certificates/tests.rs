use std::fs;
use std::os::unix::fs::PermissionsExt;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    SanType, SerialNumber, date_time_ymd,
};

use super::*;

/// An authority and what it has signed, in files of a folder.
pub(crate) struct Pki {
    pub(crate) folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A key of RSA, or of ECDSA on P-256.
fn key(rsa: bool) -> KeyPair {
    match rsa {
        true => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap(),
        false => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Pki {
    /// With `ca.pem`.
    pub(crate) fn new() -> Pki {
        let mut params = params("authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = key(false);
        let pem = params.self_signed(&key).unwrap().pem();
        let pki = Pki { folder: tempfile::tempdir().unwrap(), issuer: Issuer::new(params, key) };
        pki.write("ca.pem", &pem);
        pki
    }

    /// `NAME.pem` and `NAME.key`, for this domain name.
    pub(crate) fn issue(&self, name: &str, domain: &str, rsa: bool) {
        self.issue_with(name, rsa, |params| {
            params.subject_alt_names = vec![SanType::DnsName(domain.try_into().unwrap())];
        });
    }

    fn issue_with(&self, name: &str, rsa: bool, change: impl FnOnce(&mut CertificateParams)) {
        let (mut params, key) = (params(name), key(rsa));
        change(&mut params);
        self.write(&format!("{name}.pem"), &params.signed_by(&key, &self.issuer).unwrap().pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
        fs::set_permissions(self.folder.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A list of this authority that takes nothing back, `NAME.pem`.
    pub(crate) fn list(&self, name: &str, number: u64) {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2027, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write(&format!("{name}.pem"), &list.signed_by(&self.issuer).unwrap().pem().unwrap());
    }

    fn load(&self, own: &[&str], anchors: &[&str], crls: &[&str]) -> Result<Certificates, String> {
        let files = |names: &[&str], end: &str| names.iter().map(|name| format!("{name}{end}").into()).collect();
        let (certificate, private_key) = (Paths(files(own, ".pem")), Paths(files(own, ".key")));
        let (trust_anchors, crls): (Vec<PathBuf>, Vec<PathBuf>) = (files(anchors, ""), files(crls, ""));
        let named =
            Named { certificate: &certificate, private_key: &private_key, trust_anchors: &trust_anchors, crls: &crls };
        Certificates::load(&self.folder.path().join("gcks.toml"), named).map_err(|error| error.to_string())
    }
}

fn named(domain: &str) -> Identity {
    Identity::Name(domain.to_owned())
}

#[test]
fn what_is_shown_and_who_is_taken_are_what_the_files_say() {
    let pki = Pki::new();
    pki.issue("ecdsa", "gcks.example", false);
    pki.issue("rsa", "gcks.example", true);
    pki.issue("client", "client.example", false);
    let server = pki.load(&["ecdsa", "rsa"], &["ca.pem"], &[]).unwrap();
    assert_eq!(server.own().len(), 2);
    server.check_identity(&named("gcks.example")).unwrap();
    let error = server.check_identity(&named("client.example")).unwrap_err().to_string();
    assert!(error.contains("ecdsa.pem") && error.contains("client.example"), "{error}");

    let client = pki.load(&["client"], &["ca.pem"], &[]).unwrap();
    let chain = client.own()[0].chain.clone();
    let check = |certificates: &Certificates, domain| certificates.check(&[&chain[0]], &named(domain)).map(drop);
    assert_eq!(check(&server, "client.example"), Ok(()));
    assert_eq!(check(&server, "gcks.example"), Err(CertificateError::Name), "of another");
    assert_eq!(check(&Certificates::default(), "client.example"), Err(CertificateError::UnknownIssuer));
    let other = Pki::new();
    other.issue("own", "gcks.example", false);
    let stranger = other.load(&["own"], &["ca.pem"], &[]).unwrap();
    assert_eq!(check(&stranger, "client.example"), Err(CertificateError::UnknownIssuer));
}

#[test]
fn what_has_changed_is_told_by_its_key() {
    let pki = Pki::new();
    pki.issue("own", "gcks.example", false);
    let before = pki.load(&["own"], &["ca.pem"], &[]).unwrap();
    assert!(pki.load(&["own"], &["ca.pem"], &[]).unwrap().changes(&before).is_empty());
    pki.issue("own", "gcks.example", false);
    let after = pki.load(&["own"], &["ca.pem", "ca.pem"], &[]).unwrap();
    assert_eq!(after.changes(&before), ["gcks.certificate", "gcks.trust_anchors"]);
}

#[test]
fn a_list_that_is_older_takes_no_ones_place() {
    let pki = Pki::new();
    pki.issue("own", "gcks.example", false);
    let with = |number| {
        pki.list("crl", number);
        pki.load(&["own"], &["ca.pem"], &["crl.pem"]).unwrap()
    };
    let (first, second, none) = (with(1), with(2), pki.load(&["own"], &["ca.pem"], &[]).unwrap());
    assert_eq!(second.follow(&first), Ok(()));
    assert_eq!(first.follow(&none), Ok(()));
    for older in [&first, &none] {
        assert!(older.follow(&second).is_err_and(|why| why.contains("gcks.crls") && why.contains("newer")));
    }
    assert_eq!(Certificates::default().follow(&second), Ok(()), "with secrets there is nothing to revoke");
}

#[test]
fn time_is_told_by_the_file_and_the_date() {
    let pki = Pki::new();
    pki.issue_with("own", false, |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
    });
    let own = pki.load(&["own"], &["ca.pem"], &[]).unwrap();
    let (from, to) = (1_767_225_600, 1_798_761_600);
    assert_eq!(own.end(), Some(to));
    for good in [from, to] {
        own.check_time(good).unwrap();
    }
    for (bad, why) in [(from - 1, "not valid before 2026-01-01"), (to + 1, "has ended at 2027-01-01")] {
        let error = own.check_time(bad).unwrap_err().to_string();
        assert!(error.contains("own.pem") && error.contains(why), "{error}");
    }
}

#[test]
fn an_error_names_the_file_and_what_is_wrong_with_it() {
    let pki = Pki::new();
    for name in ["own", "second", "exposed", "swapped", "sec1", "eddsa", "long"] {
        pki.issue(name, "gcks.example", false);
    }
    let at = |name: &str| pki.folder.path().join(name);
    fs::set_permissions(at("exposed.key"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::copy(at("own.key"), at("swapped.key")).unwrap();
    let sec1 = fs::read_to_string(at("sec1.key")).unwrap().replace("PRIVATE KEY", "EC PRIVATE KEY");
    pki.write("sec1.key", &sec1);
    pki.write("eddsa.key", &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem());
    pki.write("long.pem", &fs::read_to_string(at("long.pem")).unwrap().repeat(5));
    pki.write("empty.pem", "");
    let stranger = Pki::new();
    stranger.list("list", 1);
    let text = |name: &str| fs::read_to_string(stranger.folder.path().join(name)).unwrap();
    pki.write("foreign.pem", &text("list.pem"));
    pki.write("astray.pem", &(text("list.pem") + &text("ca.pem")));
    pki.list("good", 1);
    for (own, anchors, crls, file, why) in [
        (&["own", "second"][..], &["ca.pem"][..], &[][..], "second.pem", "kind"),
        (&["exposed"], &["ca.pem"], &[], "exposed.key", "chmod 600"),
        (&["swapped"], &["ca.pem"], &[], "swapped.pem", "swapped.key"),
        (&["sec1"], &["ca.pem"], &[], "sec1.key", "PKCS#8"),
        (&["eddsa"], &["ca.pem"], &[], "eddsa.key", "P-256"),
        (&["long"], &["ca.pem"], &[], "long.pem", "too many"),
        (&["none"], &["ca.pem"], &[], "none.pem", "No such file"),
        (&["own"], &["own.pem"], &[], "own.pem", "no authority"),
        (&["own"], &["empty.pem"], &[], "empty.pem", "certificate"),
        (&["own"], &["ca.pem"], &["ca.pem"], "ca.pem", "revocation list"),
        (&["own"], &["ca.pem"], &["good.pem", "foreign.pem"], "foreign.pem", "trust anchors"),
        (&["own"], &["ca.pem"], &["good.pem", "astray.pem"], "astray.pem", "no trust anchor has signed"),
        (&["own"], &[], &[], "gcks.toml", "gcks.trust_anchors"),
        (&[], &["ca.pem"], &[], "gcks.toml", "gcks.certificate"),
        (&[], &[], &["ca.pem"], "gcks.toml", "gcks.crls"),
    ] {
        let error = pki.load(own, anchors, crls).err().expect(why);
        assert!(error.contains(file) && error.contains(why), "{file}, {why}: {error}");
    }
    let (certificate, private_key) = (Paths(vec!["own.pem".into()]), Paths::default());
    let named = Named { certificate: &certificate, private_key: &private_key, trust_anchors: &[], crls: &[] };
    assert!(named.check().is_err_and(|(key, _)| key == "gcks.private_key"));
}

/// Runs what stands in README, with other words in it.
fn run(pki: &Pki, commands: &str) {
    let mut shell = std::process::Command::new("sh");
    let output = shell.arg("-ec").arg(commands).current_dir(pki.folder.path()).output().unwrap();
    assert!(output.status.success(), "{commands}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_readme_has_openssl_make_is_taken() {
    if std::process::Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIP what_readme_has_openssl_make_is_taken: openssl is not installed");
        return;
    }
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let with = |beginning: &'static str| -> Vec<&str> {
        readme.split("\n\n").filter(|block| block.starts_with(beginning)).collect()
    };
    let [authority, hub] = with("    openssl req -x509 ")[..] else { panic!("two commands") };
    let pki = Pki::new();
    run(&pki, authority);
    run(&pki, hub);
    run(&pki, &hub.replace("DNS:hub.alpha.example", "IP:192.0.2.9").replace("hub", "gcks"));
    let rsa = hub.replace("hub", "rsa").replace("-newkey ec -pkeyopt ec_paramgen_curve:P-256", "-newkey rsa:3072");
    assert!(rsa.contains("rsa:3072"));
    run(&pki, &rsa);

    let now = unix_seconds();
    let address = Identity::Address([192, 0, 2, 9].into());
    for (name, who) in [("gcks", address), ("hub", named("hub.alpha.example")), ("rsa", named("rsa.alpha.example"))] {
        let own = pki.load(&[name], &["ca.pem"], &[]).unwrap();
        own.check_identity(&who).unwrap();
        own.check_time(now).unwrap();
    }
    let server = pki.load(&["gcks", "rsa"], &["ca.pem"], &[]).unwrap();
    let client = pki.load(&["hub"], &["ca.pem"], &[]).unwrap();
    let chain = &client.own()[0].chain;
    let check = |server: &Certificates| server.check(&[&chain[0]], &named("hub.alpha.example")).map(drop);
    assert_eq!(check(&server), Ok(()));
    let lists = with("    printf '%s");
    assert_eq!(lists.len(), 1);
    run(&pki, lists[0]);
    assert_eq!(check(&pki.load(&["gcks"], &["ca.pem"], &["crl.pem"]).unwrap()), Err(CertificateError::Revoked));
}
