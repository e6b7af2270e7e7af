//! The CUDA driver: devices, the context, launches.

use cudarc::driver::sys::{
    self, CUdevice_attribute, CUdeviceptr, CUfunction, CUfunction_attribute, CUmodule, CUstream,
};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use fathom_kernels::backend::DeviceError;
use std::ffi::{CString, c_void};
use std::panic::panic_any;
use std::sync::Arc;

/// A context of a device and its only stream.
pub(super) struct Driver {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

/// Panics where the device failed: what follows an error is meaningless.
#[track_caller]
pub(super) fn check<T>(result: Result<T, DriverError>, what: &str) -> T {
    result.unwrap_or_else(|error| {
        let why = format!("CUDA: {what} failed: {}; run the same command again, it goes on", describe(error));
        panic_any(DeviceError(why))
    })
}

/// The name of an error, and what the driver says about it.
pub(super) fn describe(error: DriverError) -> String {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    text.map_or_else(|_| format!("{:?}", error.0), |text| format!("{:?}, {text}", error.0))
}

/// Whether the driver is there; nothing else may be called where it is not.
pub(super) fn is_present() -> bool {
    // SAFETY: the library of this name is NVIDIA's driver, which any program may load and initialise.
    unsafe { sys::is_culib_present() && result::init().is_ok() }
}

/// The number of devices.
pub(super) fn count() -> usize {
    result::device::get_count().map_or(0, |count| count.max(0) as usize)
}

/// What a device is.
pub(super) struct Properties {
    pub(super) name: String,
    pub(super) memory_bytes: Option<u64>,
    /// Major and minor compute capability.
    pub(super) capability: (i32, i32),
    pub(super) multiprocessors: usize,
    /// Bytes of shared memory that a workgroup can be given.
    pub(super) shared_bytes: usize,
    pub(super) integrated: bool,
}

/// The properties of device `index`.
pub(super) fn properties(index: usize) -> Result<Properties, String> {
    let text = |error| format!("CUDA device {index}: {}", describe(error));
    let device = result::device::get(index as i32).map_err(text)?;
    // SAFETY: the device is one.
    let attribute = |name| unsafe { result::device::get_attribute(device, name) }.map_err(text);
    use CUdevice_attribute::*;
    Ok(Properties {
        name: result::device::get_name(device).map_err(text)?,
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }.ok().map(|bytes| bytes as u64),
        capability: (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as usize,
        shared_bytes: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.max(0) as usize,
        integrated: attribute(CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
    })
}

/// A function on the device. Its module stays loaded as long as the context.
#[derive(Clone, Copy)]
pub(super) struct Function {
    function: CUfunction,
    threads: u32,
    shared_bytes: u32,
}

// SAFETY: a function of a loaded module may be launched from any thread in which the context is current.
unsafe impl Send for Function {}

/// Machine code on the device.
pub(super) struct Module(CUmodule);

// SAFETY: as for functions.
unsafe impl Send for Module {}

/// Words of parameters that every kernel takes.
pub(super) const PARAMETERS: usize = 16;

impl Driver {
    pub(super) fn new(index: usize) -> Result<Arc<Self>, String> {
        let context = CudaContext::new(index).map_err(describe)?;
        let stream = context.new_stream().map_err(describe)?;
        Ok(Arc::new(Self { context, stream }))
    }

    /// Bytes of memory that no program uses, if the driver says so.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.bind();
        self.context.mem_get_info().ok().map(|(free, _)| free as u64)
    }

    /// Makes the context that of this thread.
    pub(super) fn bind(&self) {
        check(self.context.bind_to_thread(), "the context");
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    pub(super) fn cuda_stream(&self) -> &CudaStream {
        &self.stream
    }

    pub(super) fn stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    /// Loads machine code for as long as the context lives.
    pub(super) fn load(&self, cubin: &[u8]) -> Result<Module, String> {
        self.bind();
        // SAFETY: NVRTC wrote the code, and a checksum protects it in files.
        unsafe { result::module::load_data(cubin.as_ptr().cast()) }.map(Module).map_err(describe)
    }

    /// Looks up a function, which is launched with the given threads and bytes of dynamic shared memory.
    pub(super) fn function(
        &self,
        module: &Module,
        name: &str,
        threads: usize,
        shared_bytes: usize,
    ) -> Result<Function, String> {
        self.bind();
        let name = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module.0, name) }.map_err(describe)?;
        if shared_bytes > 48 * 1024 {
            // Beyond this, a kernel must be allowed to have more.
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was looked up above.
            unsafe { result::function::set_function_attribute(function, attribute, shared_bytes as i32) }
                .map_err(describe)?;
        }
        Ok(Function { function, threads: threads as u32, shared_bytes: shared_bytes as u32 })
    }

    /// Launches a function with addresses of memory, which may be null, and parameters, which are the arguments
    /// of every kernel.
    ///
    /// # Panics
    /// When there are too many groups or the launch fails.
    pub(super) fn launch(
        &self,
        function: Function,
        groups: usize,
        addresses: &mut [CUdeviceptr],
        parameters: &[u32],
    ) {
        self.bind();
        let groups = i32::try_from(groups).expect("a launch has at most 2^31 groups") as u32;
        let mut words = [0u32; PARAMETERS];
        words[..parameters.len()].copy_from_slice(parameters);
        let mut arguments: Vec<*mut c_void> = addresses.iter_mut().map(|a| (&raw mut *a).cast()).collect();
        arguments.push((&raw mut words).cast());
        let (one, threads) = (1, function.threads);
        // SAFETY: the function takes these arguments, which the driver copies before it returns. Memory outlives
        // the launch, because it is only reused in the order of the stream.
        let result = unsafe {
            result::launch_kernel(
                function.function,
                (groups, one, one),
                (threads, one, one),
                function.shared_bytes,
                self.stream(),
                &mut arguments,
            )
        };
        check(result, "a launch");
    }
}
