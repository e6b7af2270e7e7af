//! Devices that models run on.

use crate::{Observer, Result};
use bytesize::ByteSize;
use fathom_gpu::{Cuda, DeviceKind, Gpu, Interface, Wgpu};
use fathom_model::{Backend, Cpu};
use std::fmt;
use std::str::FromStr;

/// The instruction set that the kernels use on this processor: `portable`, `avx2`, `avx512`, `avx512_bf16` or `amx`.
pub fn instructions() -> &'static str {
    fathom_kernels::Isa::get().name()
}

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
            // Neither signs nor leading zeros.
            Some((name, index)) => match index.parse::<usize>() {
                Ok(number) if number.to_string() == index => (name, Some(number)),
                _ => return Err(unknown()),
            },
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
    /// When the device does not exist, or the work fails.
    pub(crate) fn run<T: OnDevice>(self, observer: &dyn Observer, task: T) -> Result<T::Output> {
        if self == Self::Cpu {
            return task.run(Cpu);
        }
        let all = fathom_gpu::devices();
        if self == Self::Auto {
            for device in best(&all) {
                match open(device) {
                    Ok(Opened::Wgpu(backend)) => return task.run(backend),
                    Ok(Opened::Cuda(backend)) => return task.run(backend),
                    Err(error) => observer.warn(&format!("{error}; trying the next device")),
                }
            }
            return task.run(Cpu);
        }
        let Some(device) = self.choose(&all) else {
            return Err(crate::Error::Invalid(self.missing(&all)));
        };
        match open(device).map_err(|error| self.refused(&error))? {
            Opened::Wgpu(backend) => task.run(backend),
            Opened::Cuda(backend) => task.run(backend),
        }
    }

    /// The GPU that is meant.
    fn choose(self, all: &[fathom_gpu::DeviceInfo]) -> Option<&fathom_gpu::DeviceInfo> {
        let of = |interface| all.iter().filter(move |device| device.interface == interface);
        match self {
            Self::Cpu | Self::Auto => None,
            Self::Gpu(None) => of(Interface::Wgpu).min_by_key(|device| rank(device.kind)),
            Self::Cuda(None) => of(Interface::Cuda).min_by_key(|device| !device.is_usable),
            Self::Gpu(Some(index)) => of(Interface::Wgpu).find(|device| device.index == index),
            Self::Cuda(Some(index)) => of(Interface::Cuda).find(|device| device.index == index),
        }
    }

    fn refused(self, error: &fathom_gpu::OpenError) -> crate::Error {
        let other = if matches!(self, Self::Cuda(_)) { "gpu or cpu" } else { "cpu" };
        crate::Error::Invalid(format!("{error}; or use the device {other}"))
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
                format!(
                    "device '{self}' was not found: this machine does not have {needs}; use the device cpu"
                )
            }
            false => format!(
                "device '{self}' was not found; this machine has {} (see `fathom devices`)",
                there.join(", ")
            ),
        }
    }
}

/// A GPU, ready to run models.
enum Opened {
    Wgpu(Gpu<Wgpu>),
    Cuda(Gpu<Cuda>),
}

fn open(device: &fathom_gpu::DeviceInfo) -> Result<Opened, fathom_gpu::OpenError> {
    match device.interface {
        Interface::Wgpu => fathom_gpu::open_wgpu(device.index).map(Opened::Wgpu),
        Interface::Cuda => fathom_gpu::open_cuda(device.index).map(Opened::Cuda),
    }
}

/// The GPUs that `auto` tries, the best first.
fn best(all: &[fathom_gpu::DeviceInfo]) -> impl Iterator<Item = &fathom_gpu::DeviceInfo> {
    let cuda = all.iter().filter(|device| device.interface == Interface::Cuda && device.is_usable);
    cuda.chain(all.iter().filter(|device| device.interface == Interface::Wgpu && is_fast(device)))
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
        for wrong in ["", "gpu:", "gpu:x", "gpu:01", "gpu:+1", "cpu:1", "auto:0", "cuda:-1", "tpu"] {
            let message = wrong.parse::<Device>().unwrap_err();
            assert!(message.contains(Device::NAMES), "{message}");
        }
    }

    fn found(
        interface: Interface,
        index: usize,
        kind: DeviceKind,
        is_usable: bool,
    ) -> fathom_gpu::DeviceInfo {
        let (name, system) = (format!("{interface:?} {index}"), "Vulkan".to_owned());
        fathom_gpu::DeviceInfo { interface, index, name, system, kind, memory_bytes: None, is_usable }
    }

    #[test]
    fn the_best_device_is_chosen_and_unusable_ones_are_passed_over() {
        let all = [
            found(Interface::Cuda, 0, DeviceKind::Discrete, false),
            found(Interface::Cuda, 1, DeviceKind::Discrete, true),
            found(Interface::Wgpu, 0, DeviceKind::Software, true),
            found(Interface::Wgpu, 1, DeviceKind::Integrated, true),
            found(Interface::Wgpu, 2, DeviceKind::Discrete, true),
        ];
        let names =
            |devices: &[fathom_gpu::DeviceInfo]| best(devices).map(|d| d.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&all), ["Cuda 1", "Wgpu 2"]);
        // Neither an emulation nor an integrated GPU is faster than the processor.
        assert!(names(&all[2..4]).is_empty());
        let chosen = |device: Device| device.choose(&all).map(|d| d.name.clone());
        assert_eq!(chosen(Device::Gpu(None)).as_deref(), Some("Wgpu 2"));
        assert_eq!(chosen(Device::Gpu(Some(0))).as_deref(), Some("Wgpu 0"));
        assert_eq!(chosen(Device::Cuda(None)).as_deref(), Some("Cuda 1"));
        assert_eq!(chosen(Device::Cuda(Some(0))).as_deref(), Some("Cuda 0"));
        assert_eq!(chosen(Device::Cuda(Some(2))), None);
        assert!(Device::Cuda(Some(2)).missing(&all).contains("this machine has cuda:0, cuda:1"));
        assert!(Device::Gpu(None).missing(&all[..1]).contains("Vulkan"));
    }
}
