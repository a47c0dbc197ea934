//! The folder of private keys. It lies outside every database: whoever steals a backup of the database can
//! sign nothing, and whoever restores one keeps the same identity.
//!
//! Layout: `operator.nk`, `system.nk` and `account-<organization>-<stage>.nk` are NATS seeds;
//! `signing.seed` seals claims and desired state (hexadecimal ed25519 seed); `trusted.json` lists the
//! public keys that hosts accept, so that a key can be rotated before the old one is revoked.
//! `secrets.seed` is what each stage's key for secret settings is derived from.
//! Files are 0600 and written whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use nkeys::{KeyPair, KeyPairType};
use odeon_protocol::secrets::StageKey;
use odeon_protocol::{OrganizationId, Signer, StageName};

/// An opened key folder.
#[derive(Debug, Clone)]
pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// Opens `folder`, creating what is missing: the first start makes the identity of an installation.
    pub fn open_or_create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create the key folder {}", folder.display()))?;
        let keys = Self { folder: folder.to_owned() };
        keys.nkey("operator", KeyPairType::Operator)?;
        keys.nkey("system", KeyPairType::Account)?;
        keys.signer()?;
        keys.seed("secrets")?;
        Ok(keys)
    }

    /// The NATS operator: issues accounts.
    pub(crate) fn operator(&self) -> Result<KeyPair> {
        self.nkey("operator", KeyPairType::Operator)
    }
    /// The NATS system account.
    pub(crate) fn system_account(&self) -> Result<KeyPair> {
        self.nkey("system", KeyPairType::Account)
    }
    /// The NATS account of a stage; created when it is first asked for.
    pub(crate) fn stage_account(&self, organization: &OrganizationId, stage: &StageName) -> Result<KeyPair> {
        self.nkey(&format!("account-{organization}-{stage}"), KeyPairType::Account)
    }

    /// The id of the installation's organization of that name. It is kept here, not in the database, because
    /// a stage's account carries it and must outlive a restored database.
    pub fn organization(&self, name: &str) -> Result<OrganizationId> {
        let path = self.folder.join("organizations.json");
        let mut ids: BTreeMap<String, OrganizationId> = match read_if_there(&path)? {
            Some(text) => serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?,
            None => BTreeMap::new(),
        };
        if let Some(id) = ids.get(name) {
            return Ok(id.clone());
        }
        let id: OrganizationId = uuid::Uuid::new_v4().to_string().parse()?;
        ids.insert(name.to_owned(), id.clone());
        write_private(&path, serde_json::to_string_pretty(&ids)?.as_bytes())?;
        Ok(id)
    }

    /// The key that seals claims and desired state.
    pub fn signer(&self) -> Result<Signer> {
        let signer = Signer::from_seed(&self.seed("signing")?);
        let trusted = self.trusted_file();
        let mut keys: Vec<String> = match read_if_there(&trusted)? {
            Some(text) => {
                serde_json::from_str(&text).with_context(|| format!("read {}", trusted.display()))?
            }
            None => Vec::new(),
        };
        if !keys.contains(&signer.public()) {
            keys.push(signer.public());
            write_private(&trusted, serde_json::to_string_pretty(&keys)?.as_bytes())?;
        }
        Ok(signer)
    }

    /// The key that a stage's secret settings are sealed with.
    pub fn secrets(&self, organization: &OrganizationId, stage: &StageName) -> Result<StageKey> {
        Ok(StageKey::derive(&self.seed("secrets")?, organization, stage))
    }

    /// The list of public keys that hosts, routers and migrators accept.
    pub fn trusted_file(&self) -> PathBuf {
        self.folder.join("trusted.json")
    }

    /// 32 random bytes, made when they are first asked for.
    fn seed(&self, name: &str) -> Result<[u8; 32]> {
        let path = self.folder.join(format!("{name}.seed"));
        match read_if_there(&path)? {
            Some(text) => {
                let seed = HEXLOWER.decode(text.trim().as_bytes()).ok().and_then(|seed| seed.try_into().ok());
                seed.with_context(|| {
                    format!("{} is not a 32-byte hexadecimal seed; restore it from a backup", path.display())
                })
            }
            None => {
                let seed = Signer::generate().seed();
                write_private(&path, HEXLOWER.encode(&seed).as_bytes())?;
                Ok(seed)
            }
        }
    }

    fn nkey(&self, name: &str, kind: KeyPairType) -> Result<KeyPair> {
        let path = self.folder.join(format!("{name}.nk"));
        match read_if_there(&path)? {
            Some(seed) => KeyPair::from_seed(seed.trim())
                .with_context(|| format!("{} is not a NATS seed; restore it from a backup", path.display())),
            None => {
                let pair = KeyPair::new(kind);
                let seed = pair.seed().context("encode a new NATS seed")?;
                write_private(&path, seed.as_bytes())?;
                Ok(pair)
            }
        }
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| format!("create {}", temporary.display()))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("write {}", path.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("put {} in place", path.display()))
}
