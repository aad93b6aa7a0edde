//! What the kernel says about this process: memory, CPU time, open files.

use crate::registry::{MetricError, Registry};
use nix::time::{ClockId, clock_gettime};
use std::fs;
use std::io;

/// Memory of a process as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Resident bytes now.
    pub resident: u64,
    /// The most resident bytes there ever were (since the start, or since `/proc/PID/clear_refs` was told to begin anew).
    pub peak: u64,
}

impl MemoryUse {
    /// Of this process.
    ///
    /// # Errors
    /// `/proc` is not mounted or not as `proc(5)` describes it.
    pub fn now() -> io::Result<Self> {
        Self::from_status(&fs::read_to_string("/proc/self/status")?)
    }

    /// From the text of `/proc/PID/status`.
    fn from_status(text: &str) -> io::Result<Self> {
        let field = |name: &str| {
            let kib =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB")?.trim().parse::<u64>().ok());
            kib.map(|kib| kib * 1024)
                .ok_or_else(|| io::Error::other(format!("/proc/self/status has no line `{name} … kB`")))
        };
        Ok(Self { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
    }
}

/// Registers what every process has, under the names that Prometheus clients use everywhere, and `sluice_build_info` with the `program`'s version.
///
/// A figure that the kernel refuses to give reads as NaN, which Prometheus keeps apart from 0.
pub fn register_process(registry: &Registry, program: &str, version: &str) -> Result<(), MetricError> {
    let build = [("program", program), ("version", version)];
    registry.read_gauge("sluice_build_info", "1; the labels say which program and version runs.", &build, || 1.0)?;
    gauge(registry, "process_resident_memory_bytes", "Resident memory now.", || Ok(MemoryUse::now()?.resident as f64))?;
    gauge(registry, "process_resident_memory_peak_bytes", "The most resident memory there ever was.", || {
        Ok(MemoryUse::now()?.peak as f64)
    })?;
    gauge(registry, "process_open_fds", "Open file descriptors.", || {
        // The one that reads the directory is not the process's own.
        Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as f64)
    })?;
    gauge(registry, "process_threads", "Threads.", || Ok(fs::read_dir("/proc/self/task")?.count() as f64))?;
    registry.read_counter("process_cpu_seconds_total", "CPU time of all threads, user and system.", &[], || {
        or_nan(cpu_seconds())
    })
}

fn gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    read: impl Fn() -> io::Result<f64> + Send + Sync + 'static,
) -> Result<(), MetricError> {
    registry.read_gauge(name, help, &[], move || or_nan(read()))
}

fn or_nan(figure: io::Result<f64>) -> f64 {
    figure.unwrap_or(f64::NAN)
}

fn cpu_seconds() -> io::Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_text() {
        let text = "Name:\tsluice-edge\nVmPeak:\t  999999 kB\nVmHWM:\t   40960 kB\nVmRSS:\t   20480 kB\nThreads:\t5\n";
        assert_eq!(MemoryUse::from_status(text).unwrap(), MemoryUse { resident: 20 << 20, peak: 40 << 20 });
        let why = MemoryUse::from_status("Name:\tx\nVmRSS:\t1 kB\n").unwrap_err().to_string();
        assert!(why.contains("VmHWM"), "{why}");
    }

    #[test]
    fn memory_grows_with_what_is_touched() {
        const MORE: usize = 64 << 20;
        let before = MemoryUse::now().unwrap();
        let touched = vec![1_u8; MORE];
        let during = MemoryUse::now().unwrap();
        // Other tests share the process; half of it leaves them room.
        assert!(during.resident >= before.resident + MORE as u64 / 2, "{before:?} {during:?}");
        assert!(during.peak >= during.resident);
        drop(touched);
    }

    #[test]
    fn all_figures_of_a_process_are_exposed_as_numbers() {
        let registry = Registry::new();
        register_process(&registry, "sluice-test", "1.2.3").unwrap();
        let text = registry.exposition().unwrap();
        assert!(text.contains("sluice_build_info{program=\"sluice-test\",version=\"1.2.3\"} 1\n"), "{text}");
        for name in [
            "process_resident_memory_bytes",
            "process_resident_memory_peak_bytes",
            "process_open_fds",
            "process_threads",
            "process_cpu_seconds_total",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            assert!(value.is_some_and(|value| value > 0.0), "{name}: {value:?} in\n{text}");
        }
    }
}
