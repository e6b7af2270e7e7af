//! NVIDIA's run-time compiler of CUDA C, loaded when it is first needed.

use libloading::Library;
use std::env;
use std::ffi::{CStr, CString, OsString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

type Program = *mut std::ffi::c_void;

/// The loaded compiler.
pub(super) struct Nvrtc {
    version: (i32, i32),
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log: Getter,
    cubin: Getter,
    describe: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Keeps the functions above alive.
    _library: Library,
}

/// The functions that return the size of a result and the result.
struct Getter {
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    bytes: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

/// What the compiler made of a source.
pub(super) struct Compiled {
    /// Machine code for one architecture.
    pub(super) cubin: Vec<u8>,
    /// Warnings, and what was asked for with options.
    pub(super) log: String,
}

/// What to do when the compiler is missing.
pub(super) const MISSING: &str = "the NVIDIA driver is here, but not NVRTC, which compiles the kernels. Install the CUDA \
    toolkit, or `pip install nvidia-cuda-nvrtc` (CUDA 12: `nvidia-cuda-nvrtc-cu12`) and set FATHOM_NVRTC to the \
    libnvrtc in its folder";

impl Nvrtc {
    /// The compiler of this system.
    ///
    /// # Errors
    /// When it is not found or too old; the message says what to do.
    pub(super) fn get() -> Result<&'static Self, String> {
        static NVRTC: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
        NVRTC.get_or_init(Self::find).as_ref().map_err(Clone::clone)
    }

    fn find() -> Result<Self, String> {
        if let Some(path) = env::var_os("FATHOM_NVRTC").filter(|path| !path.is_empty()) {
            return Self::load(&path)
                .map_err(|error| format!("FATHOM_NVRTC, {}: {error}", Path::new(&path).display()));
        }
        let names = NAMES.iter().map(OsString::from);
        let files = folders().into_iter().flat_map(|folder| libraries(&folder));
        names
            .chain(files.map(PathBuf::into_os_string))
            .find_map(|name| Self::load(&name).ok())
            .ok_or_else(|| MISSING.to_owned())
    }

    fn load(name: &OsString) -> Result<Self, String> {
        // SAFETY: a library of NVRTC's name, which any program may load, or one that the user has named and so
        // chosen to run.
        let library = unsafe { Library::new(name) }.map_err(|error| error.to_string())?;
        /// Looks up a function.
        ///
        /// # Safety
        /// `T` must be the type of the function.
        unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
            // SAFETY: the caller guarantees the type.
            let symbol = unsafe { library.get::<T>(name.as_bytes()) };
            symbol.map(|symbol| *symbol).map_err(|_| format!("too old a version of NVRTC, without {name}"))
        }
        // SAFETY: the types are those of nvrtc.h, which no version has changed.
        unsafe {
            let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
                symbol(&library, "nvrtcVersion")?;
            let (mut major, mut minor) = (0, 0);
            version(&raw mut major, &raw mut minor);
            Ok(Self {
                version: (major, minor),
                create: symbol(&library, "nvrtcCreateProgram")?,
                compile: symbol(&library, "nvrtcCompileProgram")?,
                destroy: symbol(&library, "nvrtcDestroyProgram")?,
                log: Getter {
                    size: symbol(&library, "nvrtcGetProgramLogSize")?,
                    bytes: symbol(&library, "nvrtcGetProgramLog")?,
                },
                cubin: Getter {
                    size: symbol(&library, "nvrtcGetCUBINSize")?,
                    bytes: symbol(&library, "nvrtcGetCUBIN")?,
                },
                describe: symbol(&library, "nvrtcGetErrorString")?,
                _library: library,
            })
        }
    }

    /// The version, such as `12.9`.
    pub(super) fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Compiles a source to machine code.
    ///
    /// # Errors
    /// The messages of the compiler.
    pub(super) fn compile(&self, source: &str, options: &[String]) -> Result<Compiled, String> {
        let source = CString::new(source).map_err(|error| error.to_string())?;
        let options: Vec<CString> = options
            .iter()
            .map(|o| CString::new(o.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: the strings and pointers live until the program is destroyed; there are no headers.
        self.check(unsafe {
            (self.create)(&raw mut program, source.as_ptr(), c"fathom.cu".as_ptr(), 0, none, none)
        })?;
        // SAFETY: the program was created above.
        let code = unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        let log = self.bytes(&self.log, program).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        let result = match self.check(code) {
            Ok(()) => self.bytes(&self.cubin, program).map(|cubin| Compiled { cubin, log }),
            Err(error) => Err(format!("NVRTC {}: {error}\n{log}", self.version())),
        };
        // SAFETY: the program is not used afterwards.
        unsafe { (self.destroy)(&raw mut program) };
        result
    }

    fn bytes(&self, getter: &Getter, program: Program) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: the program is alive.
        self.check(unsafe { (getter.size)(program, &raw mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size that was asked for.
        self.check(unsafe { (getter.bytes)(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn check(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the function returns a static string for any code.
        let text = unsafe { CStr::from_ptr((self.describe)(code)) };
        Err(text.to_string_lossy().into_owned())
    }
}

/// Names under which the loader of the system may know NVRTC, newest first.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};

/// Folders of toolkits and of Python packages.
fn folders() -> Vec<PathBuf> {
    let variables = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CONDA_PREFIX", "VIRTUAL_ENV"];
    let mut roots: Vec<PathBuf> =
        variables.iter().filter_map(env::var_os).filter(|v| !v.is_empty()).map(PathBuf::from).collect();
    if cfg!(unix) {
        roots.extend(["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"].map(PathBuf::from));
        // Toolkits are often installed side by side.
        roots.extend(entries(Path::new("/usr/local"), "cuda-"));
    } else {
        roots.extend(entries(Path::new(r"C:\Program Files\NVIDIA GPU Computing Toolkit\CUDA"), "v"));
    }
    roots.iter().flat_map(|root| folders_of(root)).collect()
}

/// Folders of a root that may hold libraries.
fn folders_of(root: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let targets = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "bin", "bin/x64"];
    folders.extend(targets.map(|folder| root.join(folder)));
    let mut packages = vec![root.join("Lib").join("site-packages")];
    packages
        .extend(entries(&root.join("lib"), "python").into_iter().map(|python| python.join("site-packages")));
    for package in packages {
        let nvidia = package.join("nvidia");
        for part in ["cu13", "cuda_nvrtc"] {
            folders.extend(["lib", "bin", "bin/x86_64"].map(|folder| nvidia.join(part).join(folder)));
        }
    }
    folders
}

/// Libraries of a folder, newest first.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    let start = if cfg!(windows) { "nvrtc64_" } else { "libnvrtc.so" };
    entries(folder, start)
}

/// Entries of a folder whose names begin with `start`, the last first.
fn entries(folder: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(start))
        .map(|entry| entry.path())
        .collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    names
}
