//! The coalition with all that its daemons need: certificates, keys, configurations.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_certs::pki;
use muster_netlab::{BLACK_DEVICE, Capture, Coalition, Nation, Plan, RED_DEVICE, RouterPlan};
use tempfile::TempDir;

use crate::args::{DemoArgs, Sabotage};
use crate::output::{Failure, because};

use super::patience::Patience;
use super::router::{self, Router};

/// The tunnel's device in every router.
pub(crate) const TUNNEL: &str = "muster0";
/// Group of the hellos; its family is that of the black network.
const DISCOVERY_V6: &str = "ff05::6d75";
const DISCOVERY_V4: &str = "239.255.109.117";
const NATIONS: usize = 3;
const PORT: u16 = 4860;
const DAYS: u32 = 1;

/// Fields are dropped in this order: first the daemons, last the files.
pub(crate) struct Laboratory {
    pub(crate) routers: Vec<Router>,
    pub(crate) capture: Capture,
    pub(crate) coalition: Coalition,
    pub(crate) patience: Patience,
    /// Of all daemons.
    pub(crate) hello_interval: Duration,
    folder: TempDir,
}

impl Laboratory {
    pub(crate) fn build(args: &DemoArgs, patience: Patience) -> Result<Self, Failure> {
        let plan = Plan::new(args.routers.into(), NATIONS.min(args.routers.into()))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix("muster-demo-").permissions(Permissions::from_mode(0o700));
        let folder = builder.tempdir().map_err(|e| because(format!("{}: {e}", std::env::temp_dir().display())))?;
        let hello_interval = args.hello_interval.unwrap_or_else(|| usual_hello_interval(plan.routers.len()));
        let routers = equip(folder.path(), &plan, hello_interval, args)?;
        patience.check()?;
        let coalition = Coalition::build(plan)?;
        // Before the first daemon, so that nothing that it sends is missed.
        let capture = Capture::start(coalition.black(), coalition.watch([PORT, PORT + 1]))?;
        Ok(Laboratory { routers, capture, coalition, patience, hello_interval, folder })
    }

    /// Starts the daemon of a router in its namespace.
    pub(crate) fn start(&mut self, index: usize) -> Result<(), Failure> {
        self.routers[index].start(&self.coalition.routers()[index].namespace)
    }

    /// Leaves the files behind, the capture among them; returns where.
    pub(crate) fn keep(&mut self) -> Result<PathBuf, Failure> {
        self.folder.disable_cleanup(true);
        let folder = self.folder.path().to_owned();
        self.capture.write_pcap(&folder.join("black.pcap"))?;
        Ok(folder)
    }
}

/// Writes all files.
fn equip(folder: &Path, plan: &Plan, hello: Duration, args: &DemoArgs) -> Result<Vec<Router>, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut roots = BTreeMap::new();
    for nation in plan.nations() {
        let root = pki::init(nation.name, now)?;
        write_file(&folder.join(anchor(&nation)), &root.certificate_pem)?;
        write_file(&folder.join(crl(&nation)), &root.crl_pem)?;
        roots.insert(nation.name, root);
    }
    let last = plan.routers.len() - 1;
    let equip = |(index, router): (usize, &RouterPlan)| {
        let root = &roots[router.nation.name];
        let device = pki::issue(&root.certificate_pem, &root.key_pem, &router.name(), DAYS, now)?;
        let group = match args.sabotage {
            Some(Sabotage::GroupName) if index == last => "another coalition",
            _ => "coalition",
        };
        let place = router::folder(folder, router)?;
        write_file(&place.join(router::CERTIFICATE), &device.certificate_pem)?;
        write_file(&place.join(router::KEY), &device.key_pem)?;
        write_file(&place.join(router::CONFIG), &configuration(plan, router, group, hello, args))?;
        Ok(Router::new(router.clone(), place))
    };
    plan.routers.iter().enumerate().map(equip).collect()
}

fn configuration(plan: &Plan, router: &RouterPlan, group: &str, hello: Duration, args: &DemoArgs) -> String {
    // The paths are relative to this file. Quotes: Debug of these plain texts is what TOML wants.
    let list = |file: fn(&Nation) -> String| {
        plan.nations().iter().map(|nation| format!("../{}", file(nation))).collect::<Vec<_>>()
    };
    let mut text = format!(
        r#"[device]
name = "{name}"
certificate = "{certificate}"
private_key = "{key}"
trust_anchors = {anchors:?}
crls = {crls:?}
control = "{control}"
state_dir = "{state}"

[black]
interface = "{BLACK_DEVICE}"

[discovery]
group = "{discovery}"
port = {PORT}
hello_interval = "{hello}"

[red]
interfaces = ["{RED_DEVICE}"]
prefixes = ["{red_v6}", "{red_v4}"]

[group]
name = "{group}"

[dataplane]
backend = "{backend}"
device = "{TUNNEL}"
"#,
        name = router.name(),
        certificate = router::CERTIFICATE,
        key = router::KEY,
        anchors = list(anchor),
        crls = list(crl),
        control = router::CONTROL,
        state = router::STATE,
        discovery = if args.ipv4 { DISCOVERY_V4 } else { DISCOVERY_V6 },
        backend = args.dataplane,
        hello = humantime::format_duration(hello),
        red_v6 = router.red_v6(),
        red_v4 = router.red_v4(),
    );
    for nation in plan.nations() {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n[trust.\"{}\"]\nprefixes = [\"{}\", \"{}\"]\n",
            nation.name,
            nation.red_v6(),
            nation.red_v4()
        );
    }
    text
}

/// Short, so that a silent death is noticed soon; longer when many share this machine's processors, because each
/// hello is checked by all others.
fn usual_hello_interval(routers: usize) -> Duration {
    Duration::from_millis(match routers {
        ..=10 => 250,
        11..=25 => 500,
        _ => 1000,
    })
}

fn anchor(nation: &Nation) -> String {
    format!("{}-ca.pem", nation.name.to_lowercase())
}

fn crl(nation: &Nation) -> String {
    format!("{}-crl.pem", nation.name.to_lowercase())
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| because(format!("{}: {error}", path.display())))
}
