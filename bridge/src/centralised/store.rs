//! Where the key server keeps what must outlive it: a file of its own, changed in transactions that are on the disk when they
//! end.
//!
//! **Secret**, and what was removed may still be in it: it is for its owner alone, on a disk that is encrypted or stays in the
//! machine.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use muster_fmke::gcks::Write;
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret_file::exposure;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("gcks");

/// It could not be read or written.
#[derive(Debug, Error)]
#[error("{}: {message}", path.display())]
pub struct StoreFault {
    path: PathBuf,
    message: String,
}

/// The open file. No other process can open it meanwhile.
pub struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens, or begins, the one in this folder.
    ///
    /// # Errors
    /// Another process has it; it is open to other users; it is damaged; the disk.
    pub fn open(folder: &Path) -> Result<Store, StoreFault> {
        let path = folder.join("gcks.redb");
        let fault = |message: String| StoreFault { path: path.clone(), message };
        let open = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            if let Some(why) = exposure(&file.metadata()?) {
                return Err(std::io::Error::other(why));
            }
            // That the file is there is on the disk before anything in it.
            fs::File::open(folder)?.sync_all()?;
            Ok(file)
        };
        let file = open().map_err(|error: std::io::Error| fault(error.to_string()))?;
        let create = |file| Builder::new().create_with_backend(FileBackend::new(file)?);
        let database = create(file).map_err(|error: DatabaseError| fault(error.to_string()))?;
        Ok(Store { database, path })
    }

    /// On anything that can be written, so that tests have one that fails.
    #[cfg(test)]
    pub(super) fn on(backend: impl redb::StorageBackend) -> Result<Store, StoreFault> {
        let path = PathBuf::from("a test's");
        let fault = |error: redb::DatabaseError| StoreFault { path: path.clone(), message: error.to_string() };
        Ok(Store { database: Builder::new().create_with_backend(backend).map_err(fault)?, path })
    }

    /// All that is kept.
    ///
    /// # Errors
    /// The disk.
    pub fn load(&self) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, StoreFault> {
        let load = || {
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(TABLE) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
                table => table?,
            };
            let mut all = BTreeMap::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                all.insert(key.value().to_owned(), Zeroizing::new(value.value().to_vec()));
            }
            Ok(all)
        };
        load().map_err(|error| self.fault(error))
    }

    /// Keeps all of these, or none. They are on the disk when it returns.
    ///
    /// # Errors
    /// The disk. What is kept then only [`Store::open`] and [`Store::load`] tell.
    pub fn commit(&self, writes: &[Write]) -> Result<(), StoreFault> {
        let commit = || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            {
                let mut table = transaction.open_table(TABLE)?;
                for Write { key, value } in writes {
                    match value {
                        Some(value) => drop(table.insert(key.as_str(), value.as_slice())?),
                        None => drop(table.remove(key.as_str())?),
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        };
        commit().map_err(|error| self.fault(error))
    }

    fn fault(&self, error: redb::Error) -> StoreFault {
        StoreFault { path: self.path.clone(), message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(key: &str, value: Option<&[u8]>) -> Write {
        Write { key: key.to_owned(), value: value.map(|value| Zeroizing::new(value.to_vec())) }
    }

    fn texts(store: &Store) -> Vec<(String, Vec<u8>)> {
        store.load().unwrap().into_iter().map(|(key, value)| (key, value.to_vec())).collect()
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let store = Store::open(&state).unwrap();
        assert_eq!(texts(&store), []);
        store.commit(&[write("a", Some(b"1")), write("b", Some(b"2"))]).unwrap();
        store.commit(&[write("a", None), write("b", Some(b"3")), write("gone", None)]).unwrap();
        assert!(Store::open(&state).is_err(), "one at a time");
        drop(store);
        let store = Store::open(&state).unwrap();
        assert_eq!(texts(&store), [("b".to_owned(), b"3".to_vec())]);
        drop(store);
        let path = state.join("gcks.redb");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Store::open(&state).is_err_and(|error| error.to_string().contains("chmod 600")));
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gcks.redb");
        fs::write(&path, vec![7; 8192]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Store::open(folder.path()).is_err_and(|error| error.to_string().contains("gcks.redb")));
    }
}
