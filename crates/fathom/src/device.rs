//! Devices that models run on.

use crate::Result;
use bytesize::ByteSize;
use fathom_gpu::{DeviceKind, Interface};
use fathom_model::{Backend, Cpu};
use std::fmt;
use std::str::FromStr;

/// The device that a model runs on.
///
/// Its name is `cpu`, `auto`, `gpu`, `gpu:N`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The fastest GPU, or the processor where there is none: a CUDA device, else a discrete or an Apple GPU.
    Auto,
    /// A GPU by Vulkan, Metal or DirectX 12: the given one of [`devices`](crate::devices), or the best.
    Gpu(Option<usize>),
    /// A GPU by CUDA: the given one, or the first.
    Cuda(Option<usize>),
}

impl Device {
    /// What [`FromStr`] reads.
    pub const NAMES: &'static str = "cpu, auto, gpu, gpu:N, cuda or cuda:N";
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Auto => f.write_str("auto"),
            Self::Gpu(None) => f.write_str("gpu"),
            Self::Gpu(Some(index)) => write!(f, "gpu:{index}"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("unknown device '{text}'; give {}", Self::NAMES);
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index.parse().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (name, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("auto", None) => Ok(Self::Auto),
            ("gpu", index) => Ok(Self::Gpu(index)),
            ("cuda", index) => Ok(Self::Cuda(index)),
            _ => Err(unknown()),
        }
    }
}

/// A device that models can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What selects it.
    pub device: Device,
    /// Its name.
    pub name: String,
    /// What it is, and what it is used through.
    pub kind: String,
    /// Bytes of its own memory, if known.
    pub memory_bytes: Option<u64>,
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {} ({}", self.device.to_string(), self.name, self.kind)?;
        if let Some(bytes) = self.memory_bytes {
            write!(f, ", {}", ByteSize(bytes).display().iec())?;
        }
        f.write_str(")")
    }
}

/// The devices of this machine, the processor first.
pub fn devices() -> Vec<DeviceInfo> {
    let machine = crate::bench::machine();
    let kind = format!("processor, {}", fathom_kernels::Isa::get().name());
    let cpu = DeviceInfo { device: Device::Cpu, name: machine.processor, kind, memory_bytes: None };
    std::iter::once(cpu).chain(fathom_gpu::devices().into_iter().map(DeviceInfo::of)).collect()
}

impl DeviceInfo {
    fn of(found: fathom_gpu::DeviceInfo) -> Self {
        let what = match found.kind {
            DeviceKind::Discrete => "discrete GPU",
            DeviceKind::Integrated => "integrated GPU",
            DeviceKind::Virtual => "virtual GPU",
            DeviceKind::Software => "emulated on the processor",
            DeviceKind::Other => "unknown kind",
        };
        let device = match found.interface {
            Interface::Cuda => Device::Cuda(Some(found.index)),
            Interface::Wgpu => Device::Gpu(Some(found.index)),
        };
        let kind = format!("{what}, {}", found.system);
        Self { device, name: found.name, kind, memory_bytes: found.memory_bytes }
    }
}

/// Work that any device can do.
pub(crate) trait OnDevice {
    type Output;

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output>;
}

impl Device {
    /// Opens the device and does the work on it.
    ///
    /// # Errors
    /// When there is no such device, or the work fails.
    pub(crate) fn run<T: OnDevice>(self, task: T) -> Result<T::Output> {
        match self.choose()? {
            None => task.run(Cpu),
            Some((Interface::Wgpu, index)) => task.run(opened(fathom_gpu::open_wgpu(index))?),
            Some((Interface::Cuda, index)) => task.run(opened(fathom_gpu::open_cuda(index))?),
        }
    }

    /// The interface and index of the GPU; `None` for the processor.
    fn choose(self) -> Result<Option<(Interface, usize)>> {
        if self == Self::Cpu {
            return Ok(None);
        }
        let all = fathom_gpu::devices();
        let of = |interface| all.iter().filter(move |device| device.interface == interface);
        let chosen = match self {
            Self::Cpu => None,
            Self::Auto => {
                let best = of(Interface::Cuda).next().or_else(|| of(Interface::Wgpu).find(|d| is_fast(d)));
                return Ok(best.map(|device| (device.interface, device.index)));
            }
            Self::Gpu(None) => of(Interface::Wgpu).min_by_key(|device| rank(device.kind)),
            Self::Cuda(None) => of(Interface::Cuda).next(),
            Self::Gpu(Some(index)) => of(Interface::Wgpu).find(|device| device.index == index),
            Self::Cuda(Some(index)) => of(Interface::Cuda).find(|device| device.index == index),
        };
        match chosen {
            Some(device) => Ok(Some((device.interface, device.index))),
            None => Err(crate::Error::Invalid(self.missing(&all))),
        }
    }

    /// Why the device is not there, and the way out.
    fn missing(self, all: &[fathom_gpu::DeviceInfo]) -> String {
        let (interface, needs) = match self {
            Self::Cuda(_) => (Interface::Cuda, "a CUDA device; it needs NVIDIA's driver"),
            _ => (
                Interface::Wgpu,
                "a GPU; it needs a driver for Vulkan (with its loader), Metal or DirectX 12",
            ),
        };
        let there: Vec<String> = all
            .iter()
            .filter(|device| device.interface == interface)
            .map(|device| DeviceInfo::of(device.clone()).device.to_string())
            .collect();
        match there.is_empty() {
            true => {
                format!("there is no device '{self}': this machine does not have {needs}; use the device cpu")
            }
            false => format!(
                "there is no device '{self}'; this machine has {} (see `fathom devices`)",
                there.join(", ")
            ),
        }
    }
}

fn opened<T>(result: Result<T, fathom_gpu::OpenError>) -> Result<T> {
    result.map_err(|error| crate::Error::Invalid(format!("{error}; use the device cpu")))
}

/// Whether a GPU is faster than the processor beside it: integrated ones are on Apple's machines alone.
fn is_fast(device: &fathom_gpu::DeviceInfo) -> bool {
    device.kind == DeviceKind::Discrete || device.kind == DeviceKind::Integrated && device.system == "Metal"
}

/// The order in which `gpu` prefers devices.
fn rank(kind: DeviceKind) -> usize {
    match kind {
        DeviceKind::Discrete => 0,
        DeviceKind::Integrated => 1,
        DeviceKind::Virtual => 2,
        DeviceKind::Other => 3,
        DeviceKind::Software => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_read_back() {
        for device in [
            Device::Cpu,
            Device::Auto,
            Device::Gpu(None),
            Device::Gpu(Some(2)),
            Device::Cuda(None),
            Device::Cuda(Some(7)),
        ] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for wrong in ["", "gpu:", "gpu:x", "cpu:1", "auto:0", "cuda:-1", "tpu"] {
            let message = wrong.parse::<Device>().unwrap_err();
            assert!(message.contains(Device::NAMES), "{message}");
        }
    }
}
