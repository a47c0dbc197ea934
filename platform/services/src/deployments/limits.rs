//! What an app may use in a stage, where a deployment says other than the default. It belongs to app and stage, as the
//! hosts that it may call do, and stays for later deployments.

use odeon_protocol::Limits;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::api::ApiError;

const MIB: u64 = 1 << 20;

/// Requests that an instance serves which may serve several at once, if the app does not say.
const SHARED_REUSE: u32 = 128;

/// Limits that differ from the default. What is absent has the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OwnLimits {
    /// Memory of one instance, in MiB: 1 to 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_memory_mib: Option<u64>,
    /// Memory of all instances of the app on one host, and of the host for them, in MiB: 16 to 65,536.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_mib: Option<u64>,
    /// Instances at once on one host: 1 to 500, half of what a host has.
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<u32>,
    /// Requests that one instance may serve: 1, the default, to 100,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    reuse: Option<u32>,
    /// Requests that one instance may serve at once: 1, the default, to 64. For components of WASI 0.3 that do not use the
    /// database; an instance is then used for 128 requests unless `reuse` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    /// Share of a host's CPUs, in thousandths of a core: 10 to 64,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_share_millicores: Option<u32>,
    /// CPU time beyond the share that may be used at a stretch, in milliseconds; null: as much as no other app wants.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    cpu_burst_ms: Option<Option<u64>>,
    /// CPU time of one request, in milliseconds: 1 to 600,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_cpu_ms: Option<u64>,
    /// Wall time of one request, in milliseconds: 1 to 60,000, what routers wait for at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_wall_ms: Option<u64>,
    /// Body of one request, in MiB: 0 to 1,024.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_body_mib: Option<u64>,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl OwnLimits {
    /// Reads limits, and refuses names that there are not and what no host could keep, naming the limit and its range.
    pub(crate) fn read(value: serde_json::Value) -> Result<Self, ApiError> {
        let read = serde_json::from_value::<Self>(value);
        read.map_err(|error| ApiError::bad_request("OS-DPL-40008", format!("a limit: {error}")))?.check()
    }

    fn check(self) -> Result<Self, ApiError> {
        let ranges = [
            ("instanceMemoryMib", self.instance_memory_mib, 1, 512),
            ("memoryMib", self.memory_mib, 16, 65_536),
            ("instances", self.instances.map(u64::from), 1, 500),
            ("reuse", self.reuse.map(u64::from), 1, 100_000),
            ("concurrency", self.concurrency.map(u64::from), 1, 64),
            ("cpuShareMillicores", self.cpu_share_millicores.map(u64::from), 10, 64_000),
            ("requestCpuMs", self.request_cpu_ms, 1, 600_000),
            ("requestWallMs", self.request_wall_ms, 1, 60_000),
            ("requestBodyMib", self.request_body_mib, 0, 1_024),
        ];
        for (name, value, least, most) in ranges {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                let detail = format!("the limit `{name}` may be {least} to {most}, not {value}");
                return Err(ApiError::bad_request("OS-DPL-40008", detail));
            }
        }
        Ok(self)
    }

    /// All limits, as hosts get them.
    pub(crate) fn whole(&self) -> Limits {
        let usual = Limits::default();
        let mib = |own: Option<u64>, usual: u64| own.map_or(usual, |mib| mib * MIB);
        Limits {
            instance_memory_bytes_max: mib(self.instance_memory_mib, usual.instance_memory_bytes_max),
            memory_bytes_max: mib(self.memory_mib, usual.memory_bytes_max),
            instances_max: self.instances.unwrap_or(usual.instances_max),
            instance_reuse_max: self.reuse.unwrap_or(match self.concurrency {
                Some(2..) => SHARED_REUSE,
                Some(_) | None => usual.instance_reuse_max,
            }),
            instance_concurrency_max: self.concurrency.unwrap_or(usual.instance_concurrency_max),
            cpu_share_millicores: self.cpu_share_millicores.unwrap_or(usual.cpu_share_millicores),
            cpu_burst_ms: self.cpu_burst_ms.unwrap_or(usual.cpu_burst_ms),
            request_cpu_ms_max: self.request_cpu_ms.unwrap_or(usual.request_cpu_ms_max),
            request_wall_ms_max: self.request_wall_ms.unwrap_or(usual.request_wall_ms_max),
            request_body_bytes_max: mib(self.request_body_mib, usual.request_body_bytes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_no_bound_and_absent_is_the_default() {
        let read = |text: &str| serde_json::from_str::<OwnLimits>(text).unwrap();
        assert_eq!(read("{}").whole(), Limits::default());
        assert_eq!(read(r#"{"cpuBurstMs": null}"#).whole().cpu_burst_ms, None);
        assert_eq!(read(r#"{"cpuBurstMs": 5, "memoryMib": 64}"#).whole().memory_bytes_max, 64 << 20);
        let (alone, shared) = (read(r#"{"concurrency": 1}"#).whole(), read(r#"{"concurrency": 2}"#).whole());
        assert_eq!((alone.instance_reuse_max, shared.instance_reuse_max), (1, SHARED_REUSE));
        let kept = serde_json::to_string(&read(r#"{"cpuBurstMs": null}"#)).unwrap();
        assert_eq!(kept, r#"{"cpuBurstMs":null}"#, "what is stored says the same");
        assert!(serde_json::from_str::<OwnLimits>(r#"{"cpu": 1}"#).is_err());
    }

    #[test]
    fn what_no_host_could_keep_is_refused_by_name() {
        let refused = |text: &str| {
            let value = serde_json::from_str(text).unwrap();
            format!("{:?}", OwnLimits::read(value).unwrap_err())
        };
        assert!(refused(r#"{"instances": 0}"#).contains("the limit `instances` may be 1 to 500, not 0"));
        let unknown = refused(r#"{"foo": 1}"#);
        assert!(unknown.contains("unknown field `foo`, expected one of `instanceMemoryMib`"), "{unknown}");
    }
}
