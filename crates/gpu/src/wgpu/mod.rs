//! WGSL kernels on wgpu.
