//! What an app may use in a stage, where a deployment says other than the default. It belongs to app and stage, as the
//! hosts that it may call do, and stays for later deployments. What the operator allows at most (`limits_max` of the settings) goes before
//! it, also before what was stored when more was allowed.

use odeon_protocol::Limits;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::api::ApiError;

const MIB: u64 = 1 << 20;

/// Requests that an instance serves which may serve several at once, if the app does not say.
const SHARED_REUSE: u32 = 128;
/// A burst without a bound.
const UNLIMITED: u64 = u64::MAX;

/// Limits that differ from the default. What is absent has the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnLimits {
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

/// One of them, and what hosts can keep.
struct Number {
    name: &'static str,
    value: Option<u64>,
    least: u64,
    most: u64,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl OwnLimits {
    /// Reads limits, and refuses names that there are not, what no host could keep, and more than `most`, naming the limit and its range.
    pub(crate) fn read(value: serde_json::Value, most: &Self) -> Result<Self, ApiError> {
        let refused = |detail| ApiError::bad_request("OS-DPL-40008", detail);
        let own: Self =
            serde_json::from_value(value).map_err(|error| refused(format!("a limit: {error}")))?;
        own.check().map_err(refused)?;
        own.check_most(most).map_err(|detail| ApiError::bad_request("OS-DPL-40009", detail))?;
        Ok(own)
    }

    /// Refuses what no host could keep.
    pub(crate) fn check(&self) -> Result<(), String> {
        for Number { name, value, least, most } in self.numbers() {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return Err(format!("the limit `{name}` may be {least} to {most}, not {value}"));
            }
        }
        Ok(())
    }

    fn check_most(&self, allowed: &Self) -> Result<(), String> {
        for (Number { name, value, .. }, allowed) in self.numbers().into_iter().zip(allowed.numbers()) {
            if let (Some(value), Some(most)) = (value, allowed.value)
                && value > most
            {
                let value = if value == UNLIMITED { "unlimited".to_owned() } else { value.to_string() };
                return Err(format!(
                    "the limit `{name}` may be {most} at most, not {value}: the operator of this installation says so"
                ));
            }
        }
        Ok(())
    }

    /// Each of them.
    fn numbers(&self) -> [Number; 10] {
        let number = |name, value, least, most| Number { name, value, least, most };
        let burst = self.cpu_burst_ms.map(|burst| burst.unwrap_or(UNLIMITED));
        [
            number("instanceMemoryMib", self.instance_memory_mib, 1, 512),
            number("memoryMib", self.memory_mib, 16, 65_536),
            number("instances", self.instances.map(u64::from), 1, 500),
            number("reuse", self.reuse.map(u64::from), 1, 100_000),
            number("concurrency", self.concurrency.map(u64::from), 1, 64),
            number("cpuShareMillicores", self.cpu_share_millicores.map(u64::from), 10, 64_000),
            number("cpuBurstMs", burst, 0, UNLIMITED),
            number("requestCpuMs", self.request_cpu_ms, 1, 600_000),
            number("requestWallMs", self.request_wall_ms, 1, 60_000),
            number("requestBodyMib", self.request_body_mib, 0, 1_024),
        ]
    }

    /// All limits, as hosts get them: none is more than `most` says, the defaults neither.
    pub(crate) fn whole(&self, most: &Self) -> Limits {
        let usual = Limits::default();
        let mib = |own: Option<u64>, usual: u64| own.map_or(usual, |mib| mib * MIB);
        let concurrency = self.concurrency.map(|own| own.min(most.concurrency.unwrap_or(own)));
        most.cut(Limits {
            instance_memory_bytes_max: mib(self.instance_memory_mib, usual.instance_memory_bytes_max),
            memory_bytes_max: mib(self.memory_mib, usual.memory_bytes_max),
            instances_max: self.instances.unwrap_or(usual.instances_max),
            instance_reuse_max: self.reuse.unwrap_or(match concurrency {
                Some(2..) => SHARED_REUSE,
                Some(_) | None => usual.instance_reuse_max,
            }),
            instance_concurrency_max: concurrency.unwrap_or(usual.instance_concurrency_max),
            cpu_share_millicores: self.cpu_share_millicores.unwrap_or(usual.cpu_share_millicores),
            cpu_burst_ms: self.cpu_burst_ms.unwrap_or(usual.cpu_burst_ms),
            request_cpu_ms_max: self.request_cpu_ms.unwrap_or(usual.request_cpu_ms_max),
            request_wall_ms_max: self.request_wall_ms.unwrap_or(usual.request_wall_ms_max),
            request_body_bytes_max: mib(self.request_body_mib, usual.request_body_bytes_max),
        })
    }

    /// The same limits, none of them more than this says.
    pub(crate) fn cut(&self, limits: Limits) -> Limits {
        let mib = |limit: u64, most: Option<u64>| most.map_or(limit, |most| limit.min(most * MIB));
        let wide = |limit: u64, most: Option<u64>| limit.min(most.unwrap_or(limit));
        let number = |limit: u32, most: Option<u32>| limit.min(most.unwrap_or(limit));
        let cut_burst = |most: u64| limits.cpu_burst_ms.map_or(most, |burst| burst.min(most));
        Limits {
            instance_memory_bytes_max: mib(limits.instance_memory_bytes_max, self.instance_memory_mib),
            memory_bytes_max: mib(limits.memory_bytes_max, self.memory_mib),
            instances_max: number(limits.instances_max, self.instances),
            instance_reuse_max: number(limits.instance_reuse_max, self.reuse),
            instance_concurrency_max: number(limits.instance_concurrency_max, self.concurrency),
            cpu_share_millicores: number(limits.cpu_share_millicores, self.cpu_share_millicores),
            cpu_burst_ms: self.cpu_burst_ms.flatten().map(cut_burst).or(limits.cpu_burst_ms),
            request_cpu_ms_max: wide(limits.request_cpu_ms_max, self.request_cpu_ms),
            request_wall_ms_max: wide(limits.request_wall_ms_max, self.request_wall_ms),
            request_body_bytes_max: mib(limits.request_body_bytes_max, self.request_body_mib),
        }
    }

    /// What differs from the default of what hosts have.
    pub(crate) fn of(limits: &Limits) -> Self {
        let usual = Limits::default();
        let mib = |limit: u64, usual: u64| (limit != usual).then_some(limit / MIB);
        let wide = |limit: u64, usual: u64| (limit != usual).then_some(limit);
        let number = |limit: u32, usual: u32| (limit != usual).then_some(limit);
        let usual_reuse =
            if limits.instance_concurrency_max > 1 { SHARED_REUSE } else { usual.instance_reuse_max };
        Self {
            instance_memory_mib: mib(limits.instance_memory_bytes_max, usual.instance_memory_bytes_max),
            memory_mib: mib(limits.memory_bytes_max, usual.memory_bytes_max),
            instances: number(limits.instances_max, usual.instances_max),
            reuse: number(limits.instance_reuse_max, usual_reuse),
            concurrency: number(limits.instance_concurrency_max, usual.instance_concurrency_max),
            cpu_share_millicores: number(limits.cpu_share_millicores, usual.cpu_share_millicores),
            cpu_burst_ms: (limits.cpu_burst_ms != usual.cpu_burst_ms).then_some(limits.cpu_burst_ms),
            request_cpu_ms: wide(limits.request_cpu_ms_max, usual.request_cpu_ms_max),
            request_wall_ms: wide(limits.request_wall_ms_max, usual.request_wall_ms_max),
            request_body_mib: mib(limits.request_body_bytes_max, usual.request_body_bytes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_no_bound_and_absent_is_the_default() {
        let read = |text: &str| serde_json::from_str::<OwnLimits>(text).unwrap();
        let whole = |text: &str| read(text).whole(&OwnLimits::default());
        assert_eq!(whole("{}"), Limits::default());
        assert_eq!(whole(r#"{"cpuBurstMs": null}"#).cpu_burst_ms, None);
        assert_eq!(whole(r#"{"cpuBurstMs": 5, "memoryMib": 64}"#).memory_bytes_max, 64 << 20);
        let (alone, shared) = (whole(r#"{"concurrency": 1}"#), whole(r#"{"concurrency": 2}"#));
        assert_eq!((alone.instance_reuse_max, shared.instance_reuse_max), (1, SHARED_REUSE));
        let kept = serde_json::to_string(&read(r#"{"cpuBurstMs": null}"#)).unwrap();
        assert_eq!(kept, r#"{"cpuBurstMs":null}"#, "what is stored says the same");
        assert!(serde_json::from_str::<OwnLimits>(r#"{"cpu": 1}"#).is_err());
    }

    #[test]
    fn what_no_host_could_keep_is_refused_by_name() {
        let refused = |text: &str| {
            let value = serde_json::from_str(text).unwrap();
            format!("{:?}", OwnLimits::read(value, &OwnLimits::default()).unwrap_err())
        };
        assert!(refused(r#"{"instances": 0}"#).contains("the limit `instances` may be 1 to 500, not 0"));
        let unknown = refused(r#"{"foo": 1}"#);
        assert!(unknown.contains("unknown field `foo`, expected one of `instanceMemoryMib`"), "{unknown}");
    }

    #[test]
    fn nothing_is_more_than_the_operator_allows() {
        let limits = |text: &str| serde_json::from_str::<OwnLimits>(text).unwrap();
        let most = limits(
            r#"{"memoryMib": 256, "instances": 300, "cpuShareMillicores": 1000, "cpuBurstMs": 7, "requestBodyMib": 1}"#,
        );
        let refused = |text: &str| {
            let value = serde_json::from_str(text).unwrap();
            OwnLimits::read(value, &most).err().map(|error| format!("{error:?}"))
        };
        assert_eq!(
            refused(r#"{"cpuShareMillicores": 1000, "instances": 300, "cpuBurstMs": 7, "reuse": 9}"#),
            None
        );
        let said = refused(r#"{"cpuShareMillicores": 1001}"#).unwrap();
        let expect = "the limit `cpuShareMillicores` may be 1000 at most, not 1001: the operator of this installation says so";
        assert!(said.contains(expect) && said.contains("OS-DPL-40009"), "{said}");
        assert!(refused(r#"{"cpuBurstMs": null}"#).unwrap().contains("7 at most, not unlimited"));

        // What was stored when more was allowed, and the defaults.
        let stored =
            limits(r#"{"cpuShareMillicores": 64000, "cpuBurstMs": null, "instances": 1}"#).whole(&most);
        let expect = Limits {
            memory_bytes_max: 256 << 20,
            instances_max: 1,
            cpu_share_millicores: 1_000,
            cpu_burst_ms: Some(7),
            request_body_bytes_max: 1 << 20,
            ..Limits::default()
        };
        assert_eq!(stored, expect);
        assert_eq!(most.cut(stored.clone()), stored, "what was cut is not cut again and again");
        let alone = limits(r#"{"concurrency": 8}"#).whole(&limits(r#"{"concurrency": 1}"#));
        assert_eq!(
            alone,
            Limits::default(),
            "and an instance that serves one at a time is not used again for that"
        );
    }

    #[test]
    fn what_hosts_have_is_what_was_asked_for() {
        let none = OwnLimits::default();
        for text in [
            "{}",
            r#"{"cpuBurstMs": null, "cpuShareMillicores": 10, "instances": 1}"#,
            r#"{"memoryMib": 64, "instanceMemoryMib": 16, "requestBodyMib": 0, "reuse": 5, "concurrency": 4}"#,
            r#"{"cpuBurstMs": 0, "requestCpuMs": 1, "requestWallMs": 2}"#,
            r#"{"concurrency": 8}"#,
            r#"{"concurrency": 8, "reuse": 1}"#,
        ] {
            let asked: OwnLimits = serde_json::from_str(text).unwrap();
            assert_eq!(OwnLimits::of(&asked.whole(&none)), asked, "{text}");
        }
    }
}
