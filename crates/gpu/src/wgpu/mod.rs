//! WGSL kernels on wgpu.

mod adapters;
mod memory;
mod pipelines;
mod source;

pub(crate) use adapters::{adapters, open};
pub use memory::Memory;

use crate::device::{Class, Device, Format, Kernel, Weights, word};
use fathom_kernels::backend::{BatchLimits, DeviceError};
use fathom_kernels::{Dtype, OutOfMemory};
use memory::Pool;
use pipelines::{Key, Pipelines};
use source::{Product, Storage};
use std::num::NonZeroU64;
use std::ops::Range;
use std::panic::panic_any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device behind Vulkan, Metal or DirectX 12.
pub struct Wgpu {
    name: String,
    memory_bytes: Option<u64>,
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    pipelines: Pipelines,
    pool: Arc<Pool>,
    recorder: Mutex<Recorder>,
    /// Stands in for arguments that a kernel of the products will not read.
    nothing: wgpu::Buffer,
}

/// Commands that wait to be submitted.
#[derive(Default)]
struct Recorder {
    encoder: Option<wgpu::CommandEncoder>,
    /// Launches follow each other in one pass, which ends before it; copies end it.
    pass: Option<wgpu::ComputePass<'static>>,
    commands: usize,
    /// Multiply-adds of the commands, about.
    work: u64,
    /// Bytes written since the last wait for writes.
    written: u64,
    /// The number of submissions so far.
    submitted: u64,
}

/// Commands per submission: enough to make the cost of a submission small, and few enough that the device
/// starts early.
const COMMANDS: usize = 128;

/// Multiply-adds per launch and per submission: systems end work that takes seconds, and a slow device makes
/// some 10^12 per second.
const WORK: u64 = 1 << 36;

/// Bytes that may wait in staging memory to be written.
const STAGED_BYTES: u64 = 256 << 20;

/// Bytes that are read at a time.
const READ_BYTES: u64 = 256 << 20;

/// Rows and columns of a tile of products.
const TILE: usize = 64;

const WORD: u64 = size_of::<u32>() as u64;

/// Sizes of buffers are multiples of this.
const SMALLEST: u64 = 256;

impl Wgpu {
    fn new(
        info: &wgpu::AdapterInfo,
        memory_bytes: Option<u64>,
        device: wgpu::Device,
        queue: wgpu::Queue,
    ) -> Self {
        // Errors that no scope takes come here, on the thread that made them.
        device.on_uncaptured_error(Arc::new(|error: wgpu::Error| match error {
            wgpu::Error::OutOfMemory { .. } => {
                fail("the GPU ran out of memory; lower --memory, close other programs that use it, or use the device cpu")
            }
            error => fail(&format!("the GPU failed: {error}")),
        }));
        let nothing = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: SMALLEST,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        Self {
            name: format!("{} ({})", info.name, adapters::system(info.backend)),
            memory_bytes,
            limits: device.limits(),
            pipelines: Pipelines::default(),
            pool: Arc::default(),
            recorder: Mutex::new(Recorder::default()),
            nothing,
            device,
            queue,
        }
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, size: u64) -> Option<wgpu::Buffer> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        adapters::now(scope.pop()).is_none().then_some(buffer)
    }

    /// Records a launch over `groups` groups. `uses` are the memories among the bindings.
    fn record(
        &self,
        key: Key,
        bindings: &[wgpu::BufferBinding<'_>],
        uses: &[&Memory],
        parameters: &[u32],
        groups: [u32; 2],
        work: u64,
    ) {
        let pipeline = self.pipelines.get(&self.device, key);
        let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
            .zip(bindings)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(buffer.clone()),
            })
            .collect();
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        });
        let mut recorder = self.recorder();
        let next = recorder.next();
        uses.iter().for_each(|memory| memory.used_by(next));
        let pass = recorder.pass(&self.device);
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.set_immediates(0, bytemuck::cast_slice(parameters));
        pass.dispatch_workgroups(groups[0], groups[1], 1);
        recorder.count(&self.queue, work);
    }

    /// The groups of a launch, folded to two dimensions.
    fn grid(&self, groups: usize) -> [u32; 2] {
        let most = self.limits.max_compute_workgroups_per_dimension as usize;
        let x = groups.min(most);
        let y = groups.div_ceil(x);
        assert!(y <= most, "a launch of {groups} groups is larger than the device takes");
        [word(x), word(y)]
    }

    /// Launches a product for every part of the weights that one binding can hold.
    fn product(&self, layer: &Weights<Memory>, x: &Memory, m: usize, out: &Memory, backward: bool) {
        let width = if backward { layer.n } else { layer.k };
        let key = Key::Product(Product {
            backward,
            storage: storage(layer.format),
            rounds: layer.dtype == Dtype::Bf16,
            vectors: width.is_multiple_of(4),
        });
        let columns = layer.format.columns();
        let row_bytes = (layer.stride / layer.format.per_word()) as u64 * WORD;
        let scale_bytes = columns.map_or(0, |columns| (layer.k / columns) as u64 * 2 * WORD);
        let at_once = self.rows_per_binding(row_bytes.max(scale_bytes)).min(rows_per_launch(m * layer.k));
        for first in (0..layer.n).step_by(at_once) {
            let rows = (layer.n - first).min(at_once);
            let scales = layer.scales.as_ref().map(|s| part(s, first, rows, scale_bytes));
            let bindings = [
                x.binding(),
                part(&layer.words, first, rows, row_bytes),
                scales.unwrap_or_else(|| self.nothing.as_entire_buffer_binding()),
                layer.bias.as_ref().map_or_else(|| self.nothing.as_entire_buffer_binding(), Memory::binding),
                out.binding(),
            ];
            let accumulate = u32::from(backward && first > 0);
            let has_bias = u32::from(!backward && layer.bias.is_some());
            let sizes = [m, rows, layer.k, layer.stride, layer.n, first, columns.unwrap_or(1)];
            let mut parameters: Vec<u32> = sizes.map(word).to_vec();
            parameters.extend([accumulate, has_bias]);
            let columns = if backward { layer.k } else { rows };
            let groups = [word(m.div_ceil(TILE)), word(columns.div_ceil(TILE))];
            let mut uses = vec![x, &layer.words, out];
            uses.extend(layer.scales.iter().chain(&layer.bias));
            let work = (m * rows * layer.k) as u64;
            self.record(key, &bindings, &uses, &parameters, groups, work);
        }
    }

    /// Rows of weights that one binding can hold: whole tiles, which also start at aligned offsets.
    fn rows_per_binding(&self, row_bytes: u64) -> usize {
        let rows = self.limits.max_storage_buffer_binding_size / row_bytes.max(1);
        let rows = usize::try_from(rows).unwrap_or(usize::MAX) / TILE * TILE;
        assert!(rows > 0, "{TILE} rows of {row_bytes} bytes are more than the device binds at once");
        rows
    }
}

/// Rows of weights that are multiplied at a time: whole tiles. Where a product is cut changes no bit of it.
fn rows_per_launch(multiply_adds: usize) -> usize {
    let rows = WORK / (multiply_adds as u64).max(1);
    usize::try_from(rows).unwrap_or(usize::MAX).max(TILE) / TILE * TILE
}

/// Ends an operation on a device that cannot be used any more.
fn fail(why: &str) -> ! {
    panic_any(DeviceError(why.to_owned()))
}

fn lost(error: &dyn std::fmt::Display) -> ! {
    fail(&format!(
        "the GPU was lost, perhaps because its driver was reset ({error}); run the same command again, it goes on"
    ))
}

/// Rows of a matrix, as a binding.
fn part(memory: &Memory, first: usize, rows: usize, row_bytes: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding {
        buffer: &memory.buffer,
        offset: first as u64 * row_bytes,
        size: NonZeroU64::new(rows as u64 * row_bytes),
    }
}

fn storage(format: Format) -> Storage {
    match format {
        Format::F32 => Storage::F32,
        Format::Bf16 => Storage::Bf16,
        Format::F16 => Storage::F16,
        Format::Int8 { .. } => Storage::Int8,
        Format::Int4 { bias, .. } => Storage::Int4(bias),
    }
}

impl Recorder {
    /// The number of the next submission.
    fn next(&self) -> u64 {
        self.submitted + 1
    }

    fn encoder(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.encoder
            .get_or_insert_with(|| device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()))
    }

    fn pass(&mut self, device: &wgpu::Device) -> &mut wgpu::ComputePass<'static> {
        let pass = match self.pass.take() {
            Some(pass) => pass,
            None => {
                let descriptor = wgpu::ComputePassDescriptor::default();
                self.encoder(device).begin_compute_pass(&descriptor).forget_lifetime()
            }
        };
        self.pass.insert(pass)
    }

    /// Counts a command, and submits when there are enough.
    fn count(&mut self, queue: &wgpu::Queue, work: u64) {
        self.commands += 1;
        self.work += work;
        if self.commands >= COMMANDS || self.work >= WORK {
            self.submit(queue);
        }
    }

    fn submit(&mut self, queue: &wgpu::Queue) {
        self.pass = None;
        if let Some(encoder) = self.encoder.take() {
            queue.submit([encoder.finish()]);
            self.submitted += 1;
        }
        self.commands = 0;
        self.work = 0;
    }
}

impl Device for Wgpu {
    type Memory = Memory;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn memory_bytes(&self) -> Option<u64> {
        self.memory_bytes
    }

    fn wait(&self) {
        self.recorder().submit(&self.queue);
        if let Err(error) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            lost(&error);
        }
    }

    fn largest_argument(&self) -> usize {
        let bytes = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        // Kernels count elements in words.
        let words = (bytes / SMALLEST * SMALLEST / WORD).min(u64::from(u32::MAX));
        usize::try_from(words).unwrap_or(usize::MAX)
    }

    fn limits(&self) -> BatchLimits {
        let argument = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        // Where arguments are small, rows of the widest layers must fit.
        let rows = if argument >= 1 << 30 { 2048 } else { 512 };
        BatchLimits {
            clean_rows: rows,
            rows,
            logit_bytes: (argument / 2).min(512 << 20),
            logit_rows: 4096,
            saved_rows: rows,
        }
    }

    fn allocate(&self, words: usize) -> Result<Memory, OutOfMemory> {
        let refused = OutOfMemory { bytes: words.saturating_mul(size_of::<u32>()) };
        // Few sizes are distinct, so that memory is reused.
        let size = (refused.bytes as u64).max(1).checked_next_multiple_of(SMALLEST).ok_or(refused)?;
        if let Some((buffer, last_use)) = self.pool.take(size) {
            return Ok(Memory::new(buffer, size, Arc::clone(&self.pool), last_use));
        }
        if size > self.limits.max_buffer_size {
            return Err(refused);
        }
        let buffer = self.create(size).or_else(|| {
            // Free memory goes back to the device once nothing uses it.
            self.pool.clear();
            self.wait();
            self.create(size)
        });
        buffer.map(|buffer| Memory::new(buffer, size, Arc::clone(&self.pool), 0)).ok_or(refused)
    }

    fn write(&self, memory: &Memory, at: usize, words: &[u32]) {
        let mut recorder = self.recorder();
        // The queue writes before the commands of the next submission.
        if memory.is_used_by(recorder.next()) {
            recorder.submit(&self.queue);
        }
        let bytes: &[u8] = bytemuck::cast_slice(words);
        self.queue.write_buffer(&memory.buffer, at as u64 * WORD, bytes);
        recorder.written += bytes.len() as u64;
        if recorder.written >= STAGED_BYTES {
            // Staging memory is freed when the device has taken what it holds.
            recorder.submit(&self.queue);
            self.queue.submit([]);
            recorder.written = 0;
            drop(recorder);
            self.wait();
        }
    }

    fn read(&self, memory: &Memory, part: Range<usize>) -> Vec<u32> {
        let mut words = Vec::with_capacity(part.len());
        let at_once = (READ_BYTES.min(self.limits.max_buffer_size) / WORD) as usize;
        for start in part.clone().step_by(at_once) {
            self.read_some(memory, start..(start + at_once).min(part.end), &mut words);
        }
        words
    }

    fn copy(&self, from: &Memory, part: Range<usize>, to: &Memory, at: usize) {
        let mut recorder = self.recorder();
        from.used_by(recorder.next());
        to.used_by(recorder.next());
        let (start, size) = (part.start as u64 * WORD, part.len() as u64 * WORD);
        let encoder = recorder.encoder(&self.device);
        encoder.copy_buffer_to_buffer(&from.buffer, start, &to.buffer, at as u64 * WORD, size);
        recorder.count(&self.queue, 0);
    }

    fn launch(&self, kernel: Kernel, buffers: &[&Memory], parameters: &[u32], work: usize) {
        let bindings: Vec<_> = buffers.iter().map(|m| m.binding()).collect();
        let groups = match kernel.class() {
            Class::Element => work.div_ceil(pipelines::THREADS),
            Class::Row => work,
        };
        let key = Key::of(kernel, parameters);
        self.record(key, &bindings, buffers, parameters, self.grid(groups), 0);
    }

    fn linear(&self, layer: &Weights<Memory>, x: &Memory, m: usize, y: &Memory) {
        self.product(layer, x, m, y, false);
    }

    fn linear_backward(&self, layer: &Weights<Memory>, dy: &Memory, m: usize, dx: &Memory) {
        self.product(layer, dy, m, dx, true);
    }
}

impl Wgpu {
    fn read_some(&self, memory: &Memory, part: Range<usize>, words: &mut Vec<u32>) {
        let (start, size) = (part.start as u64 * WORD, part.len() as u64 * WORD);
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut recorder = self.recorder();
        let encoder = recorder.encoder(&self.device);
        encoder.copy_buffer_to_buffer(&memory.buffer, start, &staging, 0, size);
        drop(recorder);
        let slice = staging.slice(..);
        self.recorder().submit(&self.queue);
        slice.map_async(wgpu::MapMode::Read, |_| {});
        self.wait();
        let mapped = slice.get_mapped_range().unwrap_or_else(|error| lost(&error));
        let (chunks, _) = mapped.as_chunks::<4>();
        words.extend(chunks.iter().map(|b| u32::from_ne_bytes(*b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gpu;
    use fathom_kernels::backend::Backend;

    /// Weights that one binding cannot hold are multiplied part by part.
    #[test]
    #[allow(clippy::print_stderr, reason = "the test says when it was skipped")]
    fn large_weights_are_cut_by_rows() {
        let Some(info) = adapters().pop() else {
            let required = std::env::var("FATHOM_TEST_REQUIRE").is_ok_and(|v| v == "1");
            assert!(!required, "no device was found behind Vulkan, Metal or DirectX 12");
            eprintln!("skipped: no device was found behind Vulkan, Metal or DirectX 12");
            return;
        };
        let (n, k, m) = (200, 44, 5);
        let run = |bytes: Option<u64>| {
            let mut device = open(info.index).unwrap();
            if let Some(bytes) = bytes {
                device.limits.max_storage_buffer_binding_size = bytes;
            }
            let gpu = Gpu::new(device).unwrap();
            let fill = |rows: Range<usize>, to: &mut [f32]| {
                to.iter_mut().zip(rows.start * k..).for_each(|(w, i)| *w = (i as f32 * 0.37).sin());
                Ok::<(), OutOfMemory>(())
            };
            let layer = gpu.pack(n, k, Dtype::F32, Some(vec![0.5; n]), fill).unwrap();
            let values: Vec<f32> = (0..m * n).map(|i| (i as f32 * 0.73).cos()).collect();
            let (x, dy) = (gpu.buffer_of(&values[..m * k]), gpu.buffer_of(&values));
            let (mut y, mut dx) = (gpu.empty(), gpu.empty());
            gpu.linear(&layer, &x, &mut y);
            gpu.linear_backward(&layer, &dy, &mut dx);
            [gpu.download(&y, 0..m * n), gpu.download(&dx, 0..m * k)]
        };
        // 64 rows of 64 floats at a time.
        assert_eq!(run(Some(64 * 64 * 4)), run(None));
    }
}
