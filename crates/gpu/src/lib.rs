//! GPU back ends of [`fathom_kernels::backend::Backend`].
//!
//! [`Gpu`] holds the host side of every operation: shapes, tables, packing of weights, the finishing of
//! statistics. It is generic over [`Device`], of which there are two: [`Wgpu`], with kernels in WGSL that run
//! on Vulkan, Metal and DirectX 12, and [`Cuda`], with kernels in CUDA C.
//!
//! **Row invariance.** On one device, the bits of an output row do not depend on the other rows of its batch:
//! kernels sum in one order for all batch heights, whatever the shape of their tiles.
//!
//! **NaN.** A row that contains NaN gives NaN. Kernels test for it by its bits, because compilers of shaders
//! may assume that there is none.

#![deny(missing_docs)]

mod backend;
mod cuda;
mod device;
mod wgpu;

pub use self::wgpu::{Memory as WgpuMemory, Wgpu};
pub use backend::{Batch, Buffer, Linear, Numbers};
#[doc(hidden)]
pub use cuda::{CompiledUnit, compile_for};
pub use cuda::{Cuda, CudaError, Memory as CudaMemory};
pub use device::{Class, Device, Format, Kernel, ROW_ALIGNMENT, TILE_ROWS, Weights};

use fathom_kernels::OutOfMemory;
use std::sync::Arc;

/// A back end on a device. Clones share the device.
pub struct Gpu<D: Device> {
    device: Arc<D>,
    /// Stands in where a kernel takes memory that it will not touch.
    nothing: Arc<D::Memory>,
}

impl<D: Device> Clone for Gpu<D> {
    fn clone(&self) -> Self {
        Self { device: Arc::clone(&self.device), nothing: Arc::clone(&self.nothing) }
    }
}

impl<D: Device> Gpu<D> {
    /// A back end on the given device.
    ///
    /// # Errors
    /// When the device refuses its first memory.
    pub fn new(device: D) -> Result<Self, OutOfMemory> {
        let nothing = Arc::new(device.allocate(1)?);
        Ok(Self { device: Arc::new(device), nothing })
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }
}

/// A device that [`devices`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The interface it is opened with.
    pub interface: Interface,
    /// Its number among those of the interface.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The system interface behind it, such as `Vulkan` or `CUDA`.
    pub system: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Bytes of memory, if known.
    pub memory_bytes: Option<u64>,
    /// Whether it can be opened, as far as can be told.
    pub is_usable: bool,
}

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// CUDA.
    Cuda,
    /// Vulkan, Metal or DirectX 12.
    Wgpu,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A GPU with its own memory.
    Discrete,
    /// A GPU that shares the memory of the processor.
    Integrated,
    /// A GPU of a virtual machine.
    Virtual,
    /// An emulation on the processor, for tests. It is never chosen automatically.
    Software,
    /// Unknown.
    Other,
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No device has the index.
    #[error("device {index} does not exist")]
    Missing {
        /// The index.
        index: usize,
    },
    /// The system refused the device.
    #[error("{name} cannot be opened: {reason}")]
    Refused {
        /// The device.
        name: String,
        /// What the system says.
        reason: String,
    },
    /// CUDA cannot use the device.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The device refused its first memory.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

/// The devices of this machine, those of CUDA first. A device may be there once per interface.
pub fn devices() -> Vec<DeviceInfo> {
    [cuda::devices(), wgpu::adapters()].concat()
}

/// Opens a device of [`Interface::Cuda`].
///
/// # Errors
/// When the device does not exist, or CUDA cannot use it.
pub fn open_cuda(index: usize) -> Result<Gpu<Cuda>, OpenError> {
    Ok(Gpu::new(Cuda::open(index)?)?)
}

/// Opens a device of [`Interface::Wgpu`].
///
/// # Errors
/// When the device does not exist, or the system refuses it.
pub fn open_wgpu(index: usize) -> Result<Gpu<Wgpu>, OpenError> {
    Ok(Gpu::new(wgpu::open(index)?)?)
}
