use std::fs;
use std::os::unix::fs::PermissionsExt;

use muster_fmke::crypto::SecretBytes;
use muster_fmke::phase1::Clients;

use super::*;
use crate::centralised::certificates::tests::Pki;

const GOOD: &str = r#"
[gcks]
interface = "black0"
address = "192.0.2.9"

[clients.a]
address = "192.0.2.1"
secret_file = "a.psk"
bypass = [{ destination = "198.51.100.0/24", protocol = "tcp", port = 443 }]

[clients.b]
address = "192.0.2.2"
secret = "0123456789abcdef"

[groups.one]
members = ["a", "b"]
rekey = "239.255.1.1:848"
activation_delay = "1s"

[[groups.one.flows]]
senders = ["a"]
source = "10.1.0.0/16"
group = "239.10.0.1"
protocol = "udp"
port = 5000

[vpns.ab]
ends = [{ client = "a", net = "10.1.0.0/16" }, { client = "b", net = "10.2.0.0/16" }]
"#;

fn load(text: &str) -> Result<GcksSettings, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in
        [("gcks.toml", text), ("a.psk", "fedcba9876543210"), ("long.psk", "fedcba9876543210fedcba9876543210")]
    {
        fs::write(folder.path().join(name), text).unwrap();
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    GcksSettings::load(&folder.path().join("gcks.toml")).map_err(|error| error.to_string())
}

#[test]
fn everything_is_taken_as_it_stands() {
    let settings = load(GOOD).unwrap();
    let secret = |address: &str| settings.known.client(address.parse().unwrap()).unwrap().secret.unwrap().clone();
    assert!(secret("192.0.2.1").matches(b"fedcba9876543210") && secret("192.0.2.2").matches(b"0123456789abcdef"));
    assert!(settings.known.client([192, 0, 2, 3].into()).is_none());
    let group = &settings.profiles.groups["one"];
    assert_eq!((group.delays.activation, group.delays.deactivation), (1, 5));
    let selector = group.flows[0].selector;
    assert_eq!((selector.protocol, selector.source.1, selector.destination.1), (17, 0, 5000));
    assert_eq!(selector.outer, selector.destination.0, "the address is preserved");
    assert_eq!(settings.profiles.vpns["ab"].ends[1].client, "b");
    let bypass: Vec<_> = settings.profiles.clients["a"].bypass.iter().collect();
    assert_eq!((bypass.len(), bypass[0].protocol, bypass[0].destination.1), (1, 6, 443));
    assert_eq!((bypass[0].source.0.to_string(), bypass[0].source.1), ("0.0.0.0/0".to_owned(), 0));
    assert!(settings.profiles.clients["b"].bypass.is_empty());
    let machine = settings.machine();
    assert_eq!((machine.address, machine.doi), ("192.0.2.9:848".parse().unwrap(), 2));
}

#[test]
fn an_error_names_the_file_and_the_key() {
    for (was, is, names) in [
        ("[clients.a]", "[clients.a]\ncolour = 1", &["line 7", "colour"][..]),
        ("\"black0\"", "\"a/b\"", &["gcks.interface", "a/b"]),
        ("address = \"192.0.2.9\"", "address = \"239.1.1.1\"", &["gcks.address"]),
        ("address = \"192.0.2.9\"", "address = \"192.0.2.9\"\nport = 0", &["gcks.port"]),
        ("address = \"192.0.2.9\"", "address = \"2001:db8::9\"", &["clients", "\"a\"", "family"]),
        ("address = \"192.0.2.2\"", "address = \"192.0.2.1\"", &["clients", "192.0.2.1"]),
        ("secret_file = \"a.psk\"", "secret_file = \"no.psk\"", &["no.psk", "No such file"]),
        ("secret_file = \"a.psk\"", "", &["clients", "\"a\"", "secret_file"]),
        ("secret = \"0123456789abcdef\"", "secret = \"short\"", &["16 to 1024"]),
        ("[\"a\", \"b\"]", "[\"a\", \"c\"]", &["groups", "\"one\"", "\"c\""]),
        ("\"1s\"", "\"1500ms\"", &["groups", "activation_delay", "whole seconds"]),
        ("\"udp\"", "\"xyz\"", &["xyz"]),
        ("[clients.a]", "[log]\nlevel = \"loud\"\n[clients.a]", &["log.level", "trace"]),
        ("[clients.a]", "[log]\nformat = \"xml\"\n[clients.a]", &["log.format", "json"]),
        ("10.2.0.0/16", "10.1.2.0/24", &["vpns", "\"ab\"", "overlap"]),
        ("198.51.100.0/24", "239.1.1.1/32", &["clients", "\"a\"", "multicast"]),
        ("198.51.100.0/24", "10.0.0.0/8", &["clients", "\"a\"", "the same packets"]),
        ("port = 443", "ports = 443", &["ports"]),
    ] {
        assert!(GOOD.contains(was), "{was}");
        let error = load(&GOOD.replacen(was, is, 1)).err().expect(is);
        assert!(error.contains("gcks.toml") || error.contains("no.psk"), "{error}");
        assert!(names.iter().all(|name| error.contains(name)), "{is}: {error}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
    }
}

/// The first configuration with a client that shows a certificate, and what the key server needs for that.
fn with_certificates() -> String {
    let own = "address = \"192.0.2.9\"\nidentity = \"gcks.example\"\ncertificate = [\"one.pem\", \"two.pem\"]\n\
               private_key = [\"one.key\", \"two.key\"]\ntrust_anchors = [\"ca.pem\"]\n";
    GOOD.replace("address = \"192.0.2.9\"\n", own)
        + "\n[clients.c]\naddress = \"192.0.2.3\"\nidentity = \"c.example\"\n"
}

/// Loads it from a folder with the files that it names.
fn load_certified(pki: &Pki, text: &str) -> Result<GcksSettings, String> {
    pki.write("gcks.toml", text);
    GcksSettings::load(&pki.folder.path().join("gcks.toml")).map_err(|error| error.to_string())
}

fn pki() -> Pki {
    let pki = Pki::new();
    pki.issue("one", "gcks.example", false);
    pki.issue("two", "gcks.example", true);
    pki.write("a.psk", "fedcba9876543210");
    pki
}

#[test]
fn a_client_shows_a_secret_or_a_certificate_and_never_the_other() {
    let pki = pki();
    let settings = load_certified(&pki, &with_certificates()).unwrap();
    let client = |address: &str| settings.known.client(address.parse().unwrap()).unwrap();
    let (a, c) = (client("192.0.2.1"), client("192.0.2.3"));
    assert_eq!((a.secret.is_some(), a.identity), (true, Some(&Identity::Address([192, 0, 2, 1].into()))));
    assert_eq!((c.secret.is_some(), c.identity), (false, Some(&Identity::Name("c.example".into()))));
    let machine = settings.machine();
    assert_eq!(machine.credentials.identity, Identity::Name("gcks.example".into()));
    assert_eq!(machine.credentials.certificates.len(), 2);

    // How it shows who it is, is who it is.
    let credential = |settings: &GcksSettings| settings.profiles.clients["c"].credential;
    for other in [
        with_certificates().replace("c.example", "d.example"),
        with_certificates().replace("identity = \"c.example\"", "secret = \"0123456789abcdef\""),
    ] {
        assert_ne!(credential(&load_certified(&pki, &other).unwrap()), credential(&settings));
    }
}

#[test]
fn an_error_in_what_belongs_to_certificates_names_it() {
    let pki = pki();
    for (was, is, names) in [
        ("identity = \"c.example\"\n", "", &["\"c\"", "identity"][..]),
        ("c.example", "two words", &["\"c\"", "two words"]),
        ("c.example", "GCKS.example", &["\"c\"", "key server's"]),
        ("[clients.b]", "[clients.b]\nidentity = \"C.example\"", &["\"b\"", "\"c\""]),
        ("c.example", "192.0.2.2", &["\"c\"", "\"b\""]),
        ("identity = \"gcks.example\"\n", "", &["one.pem", "192.0.2.9"]),
        ("\"gcks.example\"", "\"a b\"", &["gcks.identity", "a b"]),
        (", \"two.key\"", "", &["gcks.private_key"]),
        ("[\"ca.pem\"]", "[]", &["gcks.trust_anchors"]),
        ("[\"one.pem\", \"two.pem\"]", "7", &["a path or a list of paths"]),
    ] {
        assert!(with_certificates().contains(was), "{was}");
        let error = load_certified(&pki, &with_certificates().replacen(was, is, 1)).err().expect(is);
        assert!(names.iter().all(|name| error.contains(name)), "{is}: {error}");
    }
    // Without a certificate of the key server's nobody can show one.
    let error =
        load_certified(&pki, &(GOOD.to_owned() + "\n[clients.c]\naddress = \"192.0.2.3\"\nidentity = \"c.example\"\n"));
    assert!(error.is_err_and(|error| error.contains("gcks.certificate")));
}

#[test]
fn a_client_without_a_return_channel_has_a_key_and_says_nothing() {
    let one_way = GOOD.replace(
        "secret = \"0123456789abcdef\"",
        "secret = \"0123456789abcdef0123456789abcdef\"\nreturn_channel = false",
    );
    let settings = load(&one_way).unwrap();
    let client = settings.profiles.clients["b"].one_way.as_ref().unwrap();
    let key = |octets: &[u8]| ManualKey::new(SecretBytes::from(octets)).unwrap();
    assert_eq!((&client.key, client.port), (&key(b"0123456789abcdef0123456789abcdef"), 848));
    assert!(settings.known.client([192, 0, 2, 2].into()).is_none(), "for phase 1 it is nobody");
    assert_eq!(settings.machine().one_way_period, Duration::from_secs(60));
    let elsewhere = one_way.replace("return_channel = false", "return_channel = false\nport = 849");
    assert_eq!(load(&elsewhere).unwrap().profiles.clients["b"].one_way.as_ref().unwrap().port, 849);
    for (was, is, why) in [
        ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcde", "32 octets"),
        ("return_channel = false", "port = 849", "without a return channel"),
        ("return_channel = false", "return_channel = false\nidentity = \"b\"", "phase 1"),
        ("senders = [\"a\"]", "senders = [\"a\", \"b\"]", "\"b\", who sends to 239.10.0.1, has no return channel"),
        ("\"192.0.2.9\"", "\"192.0.2.9\"\none_way_period = \"5s\"", "gcks.one_way_period"),
    ] {
        assert!(one_way.contains(was), "{was}");
        let error = load(&one_way.replacen(was, is, 1)).err().expect(is);
        assert!(error.contains(why), "{is}: {error}");
    }
}

#[test]
fn a_secret_in_a_file_that_others_may_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gcks.toml");
    let inline = GOOD.replace("secret_file = \"a.psk\"", "secret = \"fedcba9876543210\"");
    fs::write(&path, inline).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(GcksSettings::load(&path).is_err_and(|error| error.to_string().contains("chmod 600")));
}

/// What the package installs, with those lines in force that `wanted` says.
fn sample(wanted: impl Fn(&str) -> bool) -> String {
    let text = fs::read_to_string("../packaging/gcks.toml").unwrap();
    let line = |line: &str| match line.strip_prefix('#').filter(|setting| !setting.starts_with(' ')) {
        Some(setting) if wanted(setting) => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_sample_says_what_holds_without_it() {
    const CERTIFIED: [&str; 4] = ["certificate", "private_key", "trust_anchors", "crls"];
    const NO_DEFAULT: [&str; 15] = [
        "interface",
        "address",
        "identity",
        "secret",
        "secret_file",
        "destination",
        "source",
        "members",
        "rekey",
        "senders",
        "group",
        "outer",
        "client",
        "net",
        "listen",
    ];
    let key = |setting: &str| setting.split(' ').next().unwrap_or_default().to_owned();
    let file = |wanted: &dyn Fn(&str) -> bool| toml::from_str::<GcksFile>(&sample(wanted)).unwrap();
    let all = file(&|_| true);
    let defaults = file(&|setting| {
        setting.starts_with('[') || [&NO_DEFAULT[..], &CERTIFIED].concat().contains(&key(setting).as_str())
    });
    assert_eq!((all.gcks, all.log), (defaults.gcks, defaults.log));
    assert_eq!((all.groups, all.vpns), (defaults.groups, defaults.vpns));
    let clients =
        |clients: &BTreeMap<String, ClientSection>| clients.values().map(ClientSection::client).collect::<Vec<_>>();
    assert_eq!(clients(&all.clients), clients(&defaults.clients));
    let secrets = sample(|setting| !CERTIFIED.contains(&key(setting).as_str()));
    let settings = load(&secrets.replace("hub.psk", "a.psk").replace("terminal.psk", "long.psk")).unwrap();
    let Profiles { clients, groups, vpns } = &settings.profiles;
    assert_eq!((clients.len(), groups.len(), vpns.len(), clients["hub"].bypass.len()), (3, 1, 1, 1));
    assert!(clients["terminal"].one_way.is_some());
}

#[test]
fn no_message_says_what_may_be_a_secret() {
    const SECRET: &str = "1234567890123456789";
    for (was, is) in [
        ("secret = \"0123456789abcdef\"", format!("secret = {SECRET}")),
        ("secret = \"0123456789abcdef\"", format!("secret = {SECRET}.5")),
        ("secret = \"0123456789abcdef\"", format!("secret = [\"{SECRET}\"]")),
        ("secret = \"0123456789abcdef\"", format!("secret = \"{SECRET}")),
        ("secret = \"0123456789abcdef\"", format!("secret = {SECRET}abcdef")),
        ("secret = \"0123456789abcdef\"", format!("{SECRET}Zm9v==")),
        ("secret = \"0123456789abcdef\"", format!("bypass = \"a, expected {SECRET}\"")),
        ("secret = \"0123456789abcdef\"", format!("return_channel = \"\"\"\n{SECRET}\n\"\"\"")),
        ("[clients.b]", format!("c = \"{SECRET}\"\n[clients.b]")),
        ("[gcks]", format!("[clients]\nc = \"{SECRET}\"\n[gcks]")),
        ("address = \"192.0.2.9\"", format!("address = \"192.0.2.9\"\nsignature = \"{SECRET}\"")),
    ] {
        assert!(GOOD.contains(was));
        let error = load(&GOOD.replace(was, &is)).err().expect(&is);
        assert!(!error.contains("1234567890") && error.contains("line "), "{is}: {error}");
    }
    let error = load(&GOOD.replace("secret = \"0123456789abcdef\"", &format!("secret = {SECRET}"))).err().unwrap();
    assert!(error.contains("line 13") && error.contains("invalid type, expected a string"), "{error}");
}
