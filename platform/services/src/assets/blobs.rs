//! Bytes by digest, in an object store: a local folder, or S3 by URL. What is read is checked against its
//! name, so a damaged or swapped blob is an error here and never a component in a stage.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::path::Path as BlobPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use odeon_protocol::Digest;
use uuid::Uuid;

/// How long an upload waits to be built.
const UPLOAD_AGE_MAX: chrono::TimeDelta = chrono::TimeDelta::hours(1);
/// Time between two looks for older ones.
const SWEEP_PAUSE: std::time::Duration = std::time::Duration::from_secs(600);

/// Models, components and native artefacts.
#[derive(Clone)]
pub(crate) struct Blobs(Arc<dyn ObjectStore>);

impl Blobs {
    /// Opens `s3://bucket/prefix` (settings from the usual AWS variables) or a folder, which is created.
    pub(crate) fn open(location: &str) -> Result<Self> {
        if location.contains("://") {
            let url = location.parse().with_context(|| format!("`{location}` is not a URL"))?;
            let (store, prefix) = object_store::parse_url_opts(&url, std::env::vars())
                .with_context(|| format!("open the object store {location}"))?;
            return Ok(Self(Arc::new(object_store::prefix::PrefixStore::new(store, prefix))));
        }
        let folder = Path::new(location);
        std::fs::create_dir_all(folder).with_context(|| format!("create the blob folder {location}"))?;
        let store = object_store::local::LocalFileSystem::new_with_prefix(folder)
            .with_context(|| format!("open the blob folder {location}"))?
            .with_fsync(true); // a revision that is stored has its bits, whatever happens to the machine
        Ok(Self(Arc::new(store)))
    }

    /// Stores `bytes` under their digest.
    pub(crate) async fn put(&self, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        let path = BlobPath::from(format!("sha256/{digest}"));
        if self.0.head(&path).await.is_err() {
            self.0.put(&path, bytes.into()).await.with_context(|| format!("store the blob {digest}"))?;
        }
        Ok(digest)
    }

    /// Reads what [`Self::put`] stored.
    pub(crate) async fn get(&self, digest: &Digest) -> Result<Bytes> {
        let path = BlobPath::from(format!("sha256/{digest}"));
        let bytes = async { self.0.get(&path).await?.bytes().await };
        let bytes = bytes.await.with_context(|| format!("read the blob {digest}"))?;
        ensure!(Digest::of(&bytes) == *digest, "the blob {digest} is damaged; restore it from a backup");
        Ok(bytes)
    }

    /// Stores an upload until it is built.
    pub(crate) async fn put_upload(&self, organization: &str, bytes: Bytes) -> Result<Uuid> {
        let key = Uuid::new_v4();
        self.0.put(&upload_path(organization, key), bytes.into()).await.context("store the upload")?;
        Ok(key)
    }

    /// Takes an upload of that organization out of the store.
    pub(crate) async fn take_upload(&self, organization: &str, key: Uuid) -> Result<Option<Bytes>> {
        let path = upload_path(organization, key);
        let bytes = match self.0.get(&path).await {
            Ok(found) => found.bytes().await.context("read the upload")?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error).context("read the upload"),
        };
        self.0.delete(&path).await.context("remove the upload")?;
        Ok(Some(bytes))
    }
}

impl Blobs {
    /// Removes uploads that nobody built, for ever.
    pub(crate) async fn sweep_uploads(&self) {
        loop {
            if let Err(error) = self.sweep_once().await {
                tracing::warn!("old uploads were not removed: {error:#}");
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    }

    async fn sweep_once(&self) -> Result<()> {
        let mut uploads = self.0.list(Some(&BlobPath::from("uploads")));
        while let Some(upload) = uploads.try_next().await.context("list uploads")? {
            if chrono::Utc::now() - upload.last_modified > UPLOAD_AGE_MAX {
                self.0.delete(&upload.location).await.context("remove an upload")?;
            }
        }
        Ok(())
    }
}

fn upload_path(organization: &str, key: Uuid) -> BlobPath {
    BlobPath::from(format!("uploads/{organization}/{key}"))
}
