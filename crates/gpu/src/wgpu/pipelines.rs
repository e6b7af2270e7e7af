//! Compiled kernels, made when they are first used.

use super::source::{self, Product};
use crate::device::Kernel;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Threads per group of the kernels of the table.
pub(super) const THREADS: usize = 256;

/// Bytes of the parameters of any kernel, at most.
pub(super) const PARAMETER_BYTES: u32 = 64;

/// What a pipeline is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A kernel of the table, and the chunks of a head for attention.
    Kernel(Kernel, usize),
    /// A product.
    Product(Product),
}

impl Key {
    pub(super) fn of(kernel: Kernel, parameters: &[u32]) -> Self {
        let chunks = match kernel {
            Kernel::Attention | Kernel::AttentionStats | Kernel::AttentionDq | Kernel::AttentionDkv => {
                source::chunks(parameters[3] as usize)
            }
            _ => 0,
        };
        assert!(
            chunks <= 8,
            "heads of {} dimensions are too wide for this device: 512 at most",
            parameters[3]
        );
        Self::Kernel(kernel, chunks)
    }

    fn source(self) -> String {
        match self {
            Self::Kernel(kernel, chunks) => source::kernel(kernel, chunks),
            Self::Product(product) => product.source(),
        }
    }

    /// Arguments that are only read. One more is written.
    fn reads(self) -> usize {
        match self {
            Self::Kernel(kernel, _) => kernel.reads(),
            Self::Product(_) => 4,
        }
    }
}

pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

#[derive(Default)]
pub(super) struct Pipelines {
    made: Mutex<HashMap<Key, Arc<Pipeline>>>,
}

impl Pipelines {
    pub(super) fn get(&self, device: &wgpu::Device, key: Key) -> Arc<Pipeline> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(made.entry(key).or_insert_with(|| Arc::new(make(device, key))))
    }
}

fn make(device: &wgpu::Device, key: Key) -> Pipeline {
    let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..=key.reads())
        .map(|i| wgpu::BindGroupLayoutEntry {
            binding: i as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: i < key.reads() },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout =
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: PARAMETER_BYTES,
    });
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(key.source().into()) };
    // SAFETY: every loop of the kernels ends, divisors are positive sizes, and indices follow from lengths
    // that the host compares with those of the buffers before a launch.
    let module =
        unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    Pipeline { pipeline, layout }
}
