//! How much memory a host may use, how much of it is used, and what follows from that.
//!
//! The kernel ends a process that takes more than its control group or machine has, and all apps with it. A host gives way
//! before that, in steps: it unloads apps that are idle, then loads no more, then takes no more requests and gives those that
//! run no more memory, then ends those that have most; also when it has taken no request for long, because those that wait with much
//! memory would close it to everybody else. Between two looks these get what was left at the last one; what they
//! have got before and fill later is why the last step is there. What must stay true: nothing here runs in a
//! request; a request reads one number. What the kernel can drop by itself (clean pages of files, among them the code of apps)
//! does not count as used.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

/// Time between two looks, in milliseconds.
pub(crate) const LOOK_MS: u64 = 500;
/// The same while memory is short: what was granted before may be filled within a moment.
const SHORT_LOOK_MS: u64 = 50;
/// From this share of the limit on, in percent, idle apps are unloaded.
const UNLOAD_PERCENT: u64 = 80;
/// From this share on, in percent, no app is loaded.
const REFUSE_LOADS_PERCENT: u64 = 88;
/// From this share on, in percent, no request is taken, and no instance gets more memory.
const REFUSE_REQUESTS_PERCENT: u64 = 94;
/// From this share on, in percent, instances of the apps that hold most are ended that have what is used beyond [`REFUSE_REQUESTS_PERCENT`].
const END_INSTANCES_PERCENT: u64 = 96;
/// How long a host takes no request before instances are ended for that, in milliseconds.
const REFUSING_MS_MAX: u64 = 2_000;
/// A level is left when the share is so much below where it begins, in percent: else it would come and go.
const EASE_PERCENT: u64 = 2;
/// What loaded apps may use when no setting says it: this share of the limit.
const LOADED_SHARE: u64 = 2;
/// Mappings of a process when the kernel does not say it: its default.
const MAPPINGS_MAX: u64 = 65_530;

/// A look at the memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) used: u64,
    pub(crate) limit: u64,
}

/// What follows for instances until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// What all may get, in bytes.
    pub(crate) left: u64,
    /// What must be given back by ending, in bytes.
    pub(crate) beyond: u64,
}

impl Bounds {
    /// What follows from a reading, when no request was taken `for_long` or was a moment ago.
    fn of(reading: Reading, level: Level, for_long: bool) -> Self {
        let share = |percent| (reading.limit / 100).saturating_mul(percent);
        let end_down_to = match level {
            Level::EndInstances => share(REFUSE_REQUESTS_PERCENT),
            Level::RefuseRequests if for_long => share(REFUSE_REQUESTS_PERCENT - EASE_PERCENT),
            Level::Enough | Level::Unload | Level::RefuseLoads | Level::RefuseRequests => u64::MAX,
        };
        let left = share(REFUSE_REQUESTS_PERCENT).saturating_sub(reading.used);
        Self {
            left: if level < Level::RefuseRequests { left } else { 0 },
            beyond: reading.used.saturating_sub(end_down_to),
        }
    }
}

/// How short memory is, and what the host does about it; each level does what those below do as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    Enough,
    Unload,
    RefuseLoads,
    RefuseRequests,
    EndInstances,
}

impl Level {
    const ALL: [(Level, u64); 4] = [
        (Level::EndInstances, END_INSTANCES_PERCENT),
        (Level::RefuseRequests, REFUSE_REQUESTS_PERCENT),
        (Level::RefuseLoads, REFUSE_LOADS_PERCENT),
        (Level::Unload, UNLOAD_PERCENT),
    ];

    /// The level that follows on this one.
    fn after(self, reading: Reading) -> Level {
        let Reading { used, limit } = reading;
        let percent = used.saturating_mul(100).checked_div(limit).unwrap_or(0);
        let reached = |(level, from): &(Level, u64)| {
            let ease = if self >= *level { EASE_PERCENT } else { 0 };
            percent >= from - ease
        };
        Self::ALL.into_iter().find(reached).map_or(Level::Enough, |(level, _)| level)
    }
}

/// The level now, for whoever asks.
#[derive(Default)]
pub(crate) struct Pressure(AtomicU8);

impl Pressure {
    pub(crate) fn level(&self) -> Level {
        match self.0.load(Ordering::Relaxed) {
            0 => Level::Enough,
            1 => Level::Unload,
            2 => Level::RefuseLoads,
            3 => Level::RefuseRequests,
            _ => Level::EndInstances,
        }
    }

    /// Takes a reading; the level it leads to.
    pub(crate) fn take(&self, reading: Reading) -> Level {
        let before = self.level();
        let now = before.after(reading);
        self.0.store(now as u8, Ordering::Relaxed);
        let Reading { used, limit } = reading;
        if now > before {
            warn!(used, limit, level = ?now, "memory runs short");
        } else if now < before {
            info!(used, limit, level = ?now, "memory is freed");
        }
        now
    }
}

/// Looks again and again, and unloads while there is reason to. `read` is where readings come from.
pub(crate) async fn watch<U: Future<Output = usize>>(
    pressure: &Pressure,
    mut read: impl FnMut() -> Option<Reading>,
    mut tell: impl FnMut(Reading, Bounds),
    mut unload: impl FnMut() -> U,
) {
    let mut unload_at = Instant::now();
    let mut refusing_since = None;
    loop {
        let mut pause_ms = LOOK_MS;
        if let Some(reading) = read() {
            let level = pressure.take(reading);
            refusing_since =
                refusing_since.or(Some(Instant::now())).filter(|_| level >= Level::RefuseRequests);
            let for_long =
                refusing_since.is_some_and(|since| since.elapsed() >= Duration::from_millis(REFUSING_MS_MAX));
            tell(reading, Bounds::of(reading, level, for_long));
            if level >= Level::Unload {
                pause_ms = SHORT_LOOK_MS;
            }
            if level >= Level::Unload && Instant::now() >= unload_at {
                let apps = unload().await;
                if apps > 0 {
                    info!(apps, "idle apps were unloaded");
                }
                unload_at = Instant::now() + Duration::from_millis(LOOK_MS);
            }
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// What loaded apps may use when no setting says it, in bytes.
pub(crate) fn loaded_bytes_max(reading: Option<Reading>) -> u64 {
    reading.map_or(1 << 30, |reading| reading.limit / LOADED_SHARE)
}

/// Mappings that the kernel allows a process.
pub(crate) fn mappings_max() -> u64 {
    let said = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    said.and_then(|said| said.trim().parse().ok()).unwrap_or(MAPPINGS_MAX)
}

/// Where the kernel says what is used and allowed.
pub(crate) struct Source {
    /// Control groups of this process, the innermost first, with the names of their files.
    groups: Vec<(PathBuf, &'static Names)>,
    meminfo: PathBuf,
}

/// The files of a control group.
struct Names {
    limit: &'static str,
    used: &'static str,
    /// Fields of `memory.stat` that the kernel can drop.
    droppable: [&'static str; 2],
}

const V2: Names =
    Names { limit: "memory.max", used: "memory.current", droppable: ["inactive_file", "active_file"] };
const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    droppable: ["total_inactive_file", "total_active_file"],
};

impl Source {
    /// Finds the control groups of this process.
    pub(crate) fn of_process() -> Self {
        let listed = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::find(&listed, Path::new("/sys/fs/cgroup"), Path::new("/proc/meminfo"))
    }

    fn find(listed: &str, mount: &Path, meminfo: &Path) -> Self {
        let mut groups = Vec::new();
        for line in listed.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let (mount, names) = match controllers {
                "" => (mount.to_owned(), &V2),
                list if list.split(',').any(|name| name == "memory") => (mount.join("memory"), &V1),
                _ => continue,
            };
            // In a container the path may be that of the machine; then only the mount itself is there.
            let path = Path::new(path.trim_start_matches('/'));
            groups.extend(path.ancestors().map(|path| (mount.join(path), names)));
        }
        Self { groups, meminfo: meminfo.to_owned() }
    }

    /// The tightest of what the groups and the machine say.
    pub(crate) fn read(&self) -> Option<Reading> {
        let of_groups = self.groups.iter().filter_map(|(path, names)| group(path, names));
        of_groups
            .chain(machine(&self.meminfo))
            .min_by_key(|reading| reading.limit.saturating_sub(reading.used))
    }
}

fn group(path: &Path, names: &Names) -> Option<Reading> {
    let number = |name: &str| std::fs::read_to_string(path.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(names.limit)?; // `max`, where there is none, is no number
    let stat = std::fs::read_to_string(path.join("memory.stat")).unwrap_or_default();
    let droppable: u64 = names.droppable.iter().filter_map(|name| field(&stat, name)).sum();
    Some(Reading { used: number(names.used)?.saturating_sub(droppable), limit })
}

fn machine(meminfo: &Path) -> Option<Reading> {
    let text = std::fs::read_to_string(meminfo).ok()?;
    let (limit, available) = (field(&text, "MemTotal:")? << 10, field(&text, "MemAvailable:")? << 10);
    Some(Reading { used: limit.saturating_sub(available), limit })
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    line?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn reading(percent: u64) -> Reading {
        Reading { used: percent << 20, limit: 100 << 20 }
    }

    #[test]
    fn instances_get_what_is_left_and_give_back_what_is_beyond() {
        let bounds = |percent, level| {
            let Bounds { left, beyond } = Bounds::of(reading(percent), level, false);
            (left >> 20, beyond >> 20)
        };
        assert_eq!(bounds(90, Level::RefuseLoads), (4, 0));
        assert_eq!(bounds(93, Level::RefuseRequests), (0, 0), "until the level is left");
        assert_eq!(bounds(95, Level::RefuseRequests), (0, 0), "others end by themselves");
        assert_eq!(bounds(96, Level::EndInstances), (0, 2));
        assert_eq!(bounds(99, Level::EndInstances), (0, 5));
        assert_eq!(bounds(99, Level::Enough), (0, 0));
    }

    #[test]
    fn a_host_gives_way_in_steps_and_does_not_flutter() {
        let pressure = Pressure::default();
        let shares = [79, 80, 79, 78, 77, 88, 87, 94, 96, 94, 93, 93, 91, 50];
        let levels = shares.map(|share| pressure.take(reading(share)));
        use Level::{EndInstances, Enough, RefuseLoads, RefuseRequests, Unload};
        let expected = [
            Enough,
            Unload,
            Unload,
            Unload,
            Enough,
            RefuseLoads,
            RefuseLoads,
            RefuseRequests,
            EndInstances,
            EndInstances,
            RefuseRequests,
            RefuseRequests,
            RefuseLoads,
            Enough,
        ];
        assert_eq!(levels, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn apps_are_unloaded_for_as_long_as_memory_is_short() {
        let pressure = Pressure::default();
        let shares = [50, 90].into_iter().chain([95; 12]).chain([85, 50]);
        let readings = RefCell::new(shares.map(reading));
        let (start, mut looks, unloads) = (Instant::now(), Vec::new(), RefCell::new(Vec::new()));
        let watch = watch(
            &pressure,
            || readings.borrow_mut().next(),
            |_, _| looks.push(start.elapsed().as_millis()),
            || {
                unloads.borrow_mut().push(pressure.level());
                std::future::ready(1)
            },
        );
        let _ = tokio::time::timeout(Duration::from_millis(LOOK_MS * 10), watch).await;
        assert_eq!(*unloads.borrow(), [Level::RefuseLoads, Level::RefuseRequests]);
        let expected: Vec<u128> = [0].into_iter().chain((500..=1_200).step_by(50)).collect();
        assert_eq!(looks, expected, "the next look is soon while it is short");
        assert_eq!(pressure.level(), Level::Enough);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_refuses_requests_for_long_ends_the_largest() {
        let (start, ends) = (Instant::now(), RefCell::new(Vec::new()));
        let look = || {
            let was_ended = ends.borrow().len() >= 3;
            Some(reading(if was_ended { 91 } else { 95 }))
        };
        let tell = |_, bounds: Bounds| {
            if bounds.beyond > 0 {
                ends.borrow_mut().push((start.elapsed().as_millis(), bounds.beyond >> 20));
            }
        };
        let pressure = Pressure::default();
        let watch = watch(&pressure, look, tell, || std::future::ready(0));
        let _ = tokio::time::timeout(Duration::from_millis(REFUSING_MS_MAX * 5), watch).await;
        assert_eq!(*ends.borrow(), [(2_000, 3), (2_050, 3), (2_100, 3)], "until requests are taken again");
    }

    #[test]
    fn the_tightest_group_counts_and_pages_of_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let group = |path: &str, limit: &str, used: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("memory.max"), limit).unwrap();
            std::fs::write(path.join("memory.current"), used).unwrap();
            std::fs::write(path.join("memory.stat"), "anon 1\nactive_file 10\ninactive_file 20\n").unwrap();
        };
        let meminfo = folder.path().join("meminfo");
        std::fs::write(&meminfo, "MemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable: 4 kB\n").unwrap();
        let source = || Source::find("0::/a/b\n", folder.path(), &meminfo).read().unwrap();
        assert_eq!(
            source(),
            Reading { used: 4_096, limit: 8_192 },
            "the machine, when no group says anything"
        );
        group("a/b", "max\n", "500\n");
        group("a", "1000\n", "500\n");
        assert_eq!(source(), Reading { used: 470, limit: 1_000 });
    }
}
