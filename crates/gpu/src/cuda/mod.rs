//! Devices of NVIDIA through CUDA.
//!
//! The driver and NVRTC, which compiles the kernels for the device at hand, are loaded at run time: programs
//! build and start without either. Compiled kernels are kept in the user's cache folder.

mod cache;
mod driver;
mod memory;
mod nvrtc;
mod product;
mod source;

pub use memory::Memory;

use crate::device::{Class, Device, Kernel, Weights};
use crate::{DeviceInfo, DeviceKind, Interface};
use cache::Cache;
use driver::{Driver, Function, check};
use fathom_kernels::backend::DeviceError;
use fathom_kernels::{Dtype, OutOfMemory};
use memory::{Pool, Staging};
use nvrtc::Nvrtc;
use product::Direction;
use source::{Entry, PREFIX, THREADS, Unit, shared_heads};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::panic::panic_any;
use std::sync::{Arc, Mutex, PoisonError};

/// A device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaError(String);

impl CudaError {
    /// Whether NVRTC, which compiles the kernels, was not found.
    pub fn is_missing(&self) -> bool {
        self.0 == nvrtc::MISSING
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CudaError {}

/// The devices of CUDA; none without a driver.
pub(crate) fn devices() -> Vec<DeviceInfo> {
    let has_nvrtc = Nvrtc::get().is_ok();
    let count = if driver::is_present() { driver::count() } else { 0 };
    let info = |index| {
        let properties = driver::properties(index).ok()?;
        Some(DeviceInfo {
            interface: Interface::Cuda,
            index,
            name: properties.name,
            system: match (properties.capability < LEAST_CAPABILITY, has_nvrtc) {
                (true, _) => "CUDA, too old to be used".to_owned(),
                (false, false) => "CUDA, not usable without NVRTC".to_owned(),
                (false, true) => "CUDA".to_owned(),
            },
            is_usable: properties.capability >= LEAST_CAPABILITY && has_nvrtc,
            kind: if properties.integrated { DeviceKind::Integrated } else { DeviceKind::Discrete },
            memory_bytes: properties.memory_bytes,
        })
    };
    (0..count).filter_map(info).collect()
}

/// The least compute capability: the kernels use asynchronous copies and bfloat16 on tensor cores.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// A device of NVIDIA.
pub struct Cuda {
    name: String,
    memory_bytes: Option<u64>,
    multiprocessors: usize,
    /// Bytes of shared memory that a group may have.
    shared_bytes: usize,
    /// Such as `sm_90`.
    architecture: String,
    nvrtc: &'static Nvrtc,
    cache: Cache,
    modules: Mutex<Modules>,
    staging: Mutex<Staging>,
    pool: Arc<Pool>,
    driver: Arc<Driver>,
}

/// What was compiled and loaded so far.
#[derive(Default)]
struct Modules {
    units: HashMap<Unit, driver::Module>,
    functions: HashMap<Entry, Function>,
}

impl Cuda {
    /// Opens a device by its number.
    ///
    /// # Errors
    /// When the driver, the device or the compiler is missing, and when the device is too old. The message says
    /// what to do.
    pub fn open(index: usize) -> Result<Self, CudaError> {
        Self::try_open(index).map_err(CudaError)
    }

    fn try_open(index: usize) -> Result<Self, String> {
        if !driver::is_present() {
            return Err("no CUDA: the NVIDIA driver is not installed, or finds no device".to_owned());
        }
        let count = driver::count();
        if index >= count {
            return Err(format!("no CUDA device {index}: the driver knows {count}"));
        }
        let properties = driver::properties(index)?;
        let (major, minor) = properties.capability;
        if properties.capability < LEAST_CAPABILITY {
            return Err(format!(
                "{} has compute capability {major}.{minor}; the CUDA kernels need 8.0 (Ampere) or newer",
                properties.name
            ));
        }
        let nvrtc = Nvrtc::get()?;
        let driver = Driver::new(index)?;
        // Other programs may use the device too.
        let free = driver.free_bytes();
        Ok(Self {
            name: format!("{} (CUDA)", properties.name),
            memory_bytes: free.or(properties.memory_bytes),
            multiprocessors: properties.multiprocessors,
            shared_bytes: properties.shared_bytes,
            architecture: format!("sm_{major}{minor}"),
            nvrtc,
            cache: Cache::of_user(),
            modules: Mutex::default(),
            staging: Mutex::new(Staging::new(driver.clone())?),
            pool: Pool::new(driver.clone()),
            driver,
        })
    }

    /// Memory that is needed for a moment.
    ///
    /// # Panics
    /// With [`OutOfMemory`] as the payload when the device refuses.
    fn scratch(&self, words: usize) -> Memory {
        self.pool.allocate(words).unwrap_or_else(|error| panic_any(error))
    }

    /// Compiles a unit, or reads it from the cache, and loads it.
    fn load(&self, modules: &mut Modules, unit: Unit) -> Result<(), String> {
        if modules.units.contains_key(&unit) {
            return Ok(());
        }
        let (source, options) = (unit.source(), unit.options(&self.architecture));
        let (version, joined) = (self.nvrtc.version(), options.join(" "));
        let key = [source.as_str(), &joined, &version];
        let cached = self.cache.load(&key).and_then(|cubin| self.driver.load(&cubin).ok());
        let module = match cached {
            Some(module) => module,
            None => {
                let cubin = self.nvrtc.compile(&source, &options)?.cubin;
                self.cache.store(&key, &cubin);
                self.driver.load(&cubin)?
            }
        };
        modules.units.insert(unit, module);
        Ok(())
    }

    fn function(&self, entry: Entry) -> Result<Function, String> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = modules.functions.get(&entry) {
            return Ok(*function);
        }
        self.load(&mut modules, entry.unit)?;
        let name = format!("{PREFIX}{}", entry.name);
        let module = &modules.units[&entry.unit];
        let function = self.driver.function(module, &name, entry.threads, entry.shared_bytes)?;
        modules.functions.insert(entry, function);
        Ok(function)
    }

    /// Launches a kernel of a unit.
    ///
    /// # Panics
    /// When it cannot be compiled or launched.
    fn launch_entry(&self, entry: Entry, groups: usize, memories: &[Option<&Memory>], parameters: &[u32]) {
        let function = self.function(entry).unwrap_or_else(|error| {
            let why = format!("the CUDA kernel {} cannot be used on {}: {error}", entry.name, self.name);
            panic_any(DeviceError(format!("{why}; use another device, such as gpu or cpu")))
        });
        let addresses = memories.iter().map(|memory| memory.map_or(0, Memory::address));
        self.driver.launch(function, groups, &mut addresses.collect::<Vec<_>>(), parameters);
    }

    /// Launches one thread per element.
    fn launch_elements(&self, entry: Entry, work: usize, memories: &[Option<&Memory>], parameters: &[u32]) {
        self.launch_entry(entry, work.div_ceil(THREADS), memories, parameters);
    }
}

impl Device for Cuda {
    type Memory = Memory;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn memory_bytes(&self) -> Option<u64> {
        self.memory_bytes
    }

    fn wait(&self) {
        self.driver.bind();
        check(self.driver.cuda_stream().synchronize(), "the device");
    }

    fn peak_macs(&self, dtype: Dtype) -> u64 {
        match dtype {
            Dtype::F32 => 32,
            // Eight instructions of a warp, each 16 x 8 x 16.
            Dtype::Bf16 => 8 * 16 * 8 * 16 / 32,
        }
    }

    fn allocate(&self, words: usize) -> Result<Memory, OutOfMemory> {
        self.pool.allocate(words)
    }

    fn write(&self, memory: &Memory, at: usize, words: &[u32]) {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner).write(memory, at, words);
    }

    fn read(&self, memory: &Memory, part: Range<usize>) -> Vec<u32> {
        memory::read(&self.driver, memory, part)
    }

    fn copy(&self, from: &Memory, part: Range<usize>, to: &Memory, at: usize) {
        memory::copy(&self.driver, from, part, to, at);
    }

    fn launch(&self, kernel: Kernel, buffers: &[&Memory], parameters: &[u32], work: usize) {
        assert_eq!(buffers.len(), kernel.reads() + 1, "arguments of {}", kernel.name());
        let memories: Vec<Option<&Memory>> = buffers.iter().map(|memory| Some(*memory)).collect();
        let entry = Entry::of(kernel, parameters);
        if entry.unit.is_attention() {
            let (groups, parameters) = attention_groups(kernel, parameters, work);
            return self.launch_entry(entry, groups, &memories, &parameters);
        }
        let groups = match kernel.class() {
            Class::Element => work.div_ceil(THREADS),
            Class::Row => work,
        };
        self.launch_entry(entry, groups, &memories, parameters);
    }

    fn linear(&self, layer: &Weights<Memory>, x: &Memory, m: usize, y: &Memory) {
        self.product(Direction::Forward, layer, x, m, y);
    }

    fn linear_backward(&self, layer: &Weights<Memory>, dy: &Memory, m: usize, dx: &Memory) {
        self.product(Direction::Backward, layer, dy, m, dx);
    }
}

/// Groups of a kernel of attention, each for two tiles and some heads, and its parameters: those of the table,
/// tiles, and in the forward pass heads of a group.
fn attention_groups(kernel: Kernel, parameters: &[u32], work: usize) -> (usize, Vec<u32>) {
    let (heads, kv_heads) = (parameters[1] as usize, parameters[2] as usize);
    let (units, shared) = match kernel {
        Kernel::Attention => (heads, shared_heads(parameters)),
        Kernel::AttentionDkv => (kv_heads, 1),
        _ => (heads, 1),
    };
    let tiles = work / units;
    let mut all = parameters.to_vec();
    all.push(tiles as u32);
    if kernel == Kernel::Attention {
        all.push(shared as u32);
    }
    (tiles.div_ceil(2) * (units / shared), all)
}

/// The result of compiling one unit for one architecture, for tests.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct CompiledUnit {
    /// What was compiled.
    pub name: String,
    /// What the assembler says about registers and spills.
    pub log: String,
    /// Names of kernels that the machine code lacks.
    pub missing: Vec<String>,
}

/// Compiles every kernel for an architecture, which needs NVRTC but no device.
///
/// # Errors
/// When NVRTC is missing, and the messages of the compiler.
#[doc(hidden)]
pub fn compile_for(architecture: &str) -> Result<Vec<CompiledUnit>, CudaError> {
    let nvrtc = Nvrtc::get().map_err(CudaError)?;
    let mut entries: Vec<Entry> = product::entries();
    for head in Unit::HEADS {
        entries.extend(Kernel::ALL.map(|kernel| Entry::of(kernel, &[0, 2, 1, head as u32])));
    }
    let compile = |unit: Unit| {
        let mut options = unit.options(architecture);
        options.push("--ptxas-options=-v".to_owned());
        let compiled = nvrtc.compile(&unit.source(), &options).map_err(CudaError)?;
        let holds = |name: &str| compiled.cubin.windows(name.len()).any(|part| part == name.as_bytes());
        let names = entries.iter().filter(|entry| entry.unit == unit).map(|e| format!("{PREFIX}{}", e.name));
        let missing = names.filter(|name| !holds(name)).collect();
        Ok(CompiledUnit { name: format!("{unit:?}"), log: compiled.log, missing })
    };
    Unit::all().into_iter().map(compile).collect()
}
