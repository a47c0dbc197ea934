//! The ports of an installation. Chosen at the first start, kept from then on: URLs that people noted
//! down stay right. Standard ports of PostgreSQL and NATS are left to whoever has them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::report::progress;

/// First port that is tried.
pub(crate) const BASE: u16 = 7400;
/// How many ports are tried before giving up.
const TRIES_MAX: u16 = 500;

/// Ports by what they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports(BTreeMap<String, u16>);

impl Ports {
    /// The ports in `file`, whoever uses them now.
    pub(crate) fn known(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        Ok(Self(serde_json::from_slice(&bytes).with_context(|| format!("understand {}", file.display()))?))
    }

    /// The ports in `file`, all free now; or free ones from `base` on, which `file` then keeps.
    pub(crate) fn choose(file: &Path, names: &[String], base: u16) -> Result<Self> {
        let mut ports: BTreeMap<String, u16> = match std::fs::read(file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("understand {}", file.display()))?
            }
            Err(_) => BTreeMap::new(),
        };
        for (name, port) in &ports {
            if !is_free(*port) {
                bail!(
                    "port {port}, which this installation uses for {name}, is in use by another program; \
                     stop that program, or remove {} to choose other ports",
                    file.display()
                );
            }
        }
        let mut next = base;
        for name in names {
            if ports.contains_key(name) {
                continue;
            }
            let first = next;
            while !is_free(next) || ports.values().any(|port| *port == next) {
                next = next.checked_add(1).filter(|next| next - base < TRIES_MAX).with_context(|| {
                    format!(
                        "no free port between {base} and {}; say where with --port-base",
                        base.saturating_add(TRIES_MAX)
                    )
                })?;
            }
            if next != first && !is_free(first) {
                progress(format_args!("port {first} is in use; {name} gets {next}"));
            }
            ports.insert(name.clone(), next);
            next += 1;
        }
        let text = serde_json::to_vec_pretty(&ports).context("write down the ports")?;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(Self(ports))
    }

    /// The port for `name`, which was among the names chosen for.
    pub(crate) fn of(&self, name: &str) -> u16 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over_and_a_kept_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ports.json");
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let base = taken.local_addr().unwrap().port();
        if base > u16::MAX - TRIES_MAX {
            return; // no room above: the other cases cover it
        }
        let ports = Ports::choose(&file, &["Platform".into()], base).unwrap();
        assert_ne!(ports.of("Platform"), base);
        assert_eq!(Ports::choose(&file, &["Platform".into()], base).unwrap(), ports);

        let in_the_way = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.of("Platform")));
        if in_the_way.is_ok() {
            let error = Ports::choose(&file, &["Platform".into()], base).unwrap_err().to_string();
            assert!(error.contains("uses for Platform, is in use"), "{error}");
        }
    }
}
