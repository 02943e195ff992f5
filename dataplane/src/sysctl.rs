//! Settings below /proc/sys/net. They are those of the calling thread's network namespace.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::Error;

/// Reads `net/…`; `None` if the kernel has no such setting (IPv6 switched off, no such interface).
pub(crate) fn read(setting: &str) -> Result<Option<String>, Error> {
    match fs::read_to_string(path(setting)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(|| format!("reading {}", path(setting).display()))(e)),
    }
}

/// Writes `net/…`, if it is there and has another value. Returns whether it was there.
pub(crate) fn write(setting: &str, value: &str) -> Result<bool, Error> {
    match read(setting)? {
        None => return Ok(false),
        Some(old) if old == value => return Ok(true),
        Some(_) => {}
    }
    let what = || format!("setting {} to {value}; root is needed, and a writable /proc/sys", path(setting).display());
    fs::write(path(setting), value).map_err(Error::io(what))?;
    Ok(true)
}

/// The interfaces that have settings in `family` (`ipv4`, `ipv6`), without `all` and `default`.
pub(crate) fn interfaces(family: &str) -> Result<Vec<String>, Error> {
    let directory = path(&format!("{family}/conf"));
    let what = || format!("reading {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(Error::io(what))? {
        if let Ok(name) = entry.map_err(Error::io(what))?.file_name().into_string()
            && name != "all"
            && name != "default"
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn path(setting: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(setting)
}
