//! Compiled programs on disk, by what they were compiled from.
//!
//! A guarded program has its arena, its guard's options and its block shape in its text, so the text, the
//! device's architecture and the driver's version say all there is. The daemon alone writes here;
//! workers get and give images through memory.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Largest image kept or taken, in bytes.
const MOST: u64 = 256 << 20;

/// Why a directory cannot be the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made or looked at.
    #[error("{}: {source}", path.display())]
    System {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others may write to it: they would choose what tenants run.
    #[error("{}: other users may write to it; chmod go-w it, or name another directory", .0.display())]
    Shared(PathBuf),
    /// It is somebody else's.
    #[error("{}: belongs to another user; name a directory of the daemon's own", .0.display())]
    Foreign(PathBuf),
}

/// The cache.
#[derive(Clone, Debug)]
pub(super) struct Cache(PathBuf);

/// What an image is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key(String);

impl Key {
    pub(super) fn of(text: &str, compute: u32, driver: u32) -> Key {
        let mut hash = Sha256::new();
        hash.update(format!("turnstile 1 sm_{compute} driver {driver}\n"));
        hash.update(text);
        Key(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }
}

impl Cache {
    pub(super) fn open(path: &Path) -> Result<Cache, CacheError> {
        let failed = |source| CacheError::System { path: path.into(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let metadata = fs::metadata(path).map_err(failed)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(CacheError::Foreign(path.into()));
        }
        if metadata.permissions().mode() & 0o022 != 0 {
            return Err(CacheError::Shared(path.into()));
        }
        Ok(Cache(path.into()))
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.0.join(format!("{}.cubin", key.0))
    }

    /// The image, if it is there.
    pub(super) fn find(&self, key: &Key) -> Option<Vec<u8>> {
        let file = File::open(self.path(key)).ok()?;
        let mut image = Vec::new();
        file.take(MOST).read_to_end(&mut image).ok()?;
        (!image.is_empty()).then_some(image)
    }

    /// Keeps the image of `bytes` that is in a file. That it cannot be kept is only a pity.
    pub(super) fn keep(&self, key: &Key, file: &File, bytes: u64) {
        let keep = || -> std::io::Result<()> {
            let present = file.metadata()?.len();
            if bytes == 0 || bytes > MOST || bytes > present {
                return Ok(());
            }
            let mut image = vec![0; bytes as usize];
            file.read_exact_at(&mut image, 0)?;
            let mut new = tempfile::NamedTempFile::new_in(&self.0)?;
            new.write_all(&image)?;
            new.persist(self.path(key))?;
            Ok(())
        };
        if let Err(error) = keep() {
            tracing::warn!(%error, cache = %self.0.display(), "a compiled program was not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_all_they_depend_on() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let key = Key::of("text", 90, 13_000);
        assert_eq!(cache.find(&key), None);
        let mut payload = tempfile::tempfile().unwrap();
        payload.write_all(b"image and more").unwrap();
        cache.keep(&key, &payload, 5);
        assert_eq!(cache.find(&key).as_deref(), Some(&b"image"[..]));
        for other in
            [Key::of("texT", 90, 13_000), Key::of("text", 100, 13_000), Key::of("text", 90, 13_010)]
        {
            assert_eq!(cache.find(&other), None);
        }
        // A worker that claims more than it wrote is not believed.
        let claimed = Key::of("other", 90, 13_000);
        cache.keep(&claimed, &payload, 1 << 40);
        cache.keep(&claimed, &payload, 100);
        assert_eq!(cache.find(&claimed), None);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Cache::open(directory.path()), Err(CacheError::Shared(_))));
    }
}
