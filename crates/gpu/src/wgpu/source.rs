//! The source text of kernels.
//!
//! The files hold sections. Each is the body of one kernel, `//# name: arguments that are read | the argument
//! that is written [parameters]`, or what some kernels share. Arguments are arrays of `f32` and parameters are
//! `u32` unless they say otherwise. Declarations and the entry point are generated. A line that ends in
//! `// each chunk` is repeated for every chunk of a head, with `{c}` replaced by its number.

use crate::device::{Class, Kernel};
use std::fmt::Write as _;

const COMMON: &str = include_str!("common.wgsl");
const ELEMENTWISE: &str = include_str!("elementwise.wgsl");
const ROWS: &str = include_str!("rows.wgsl");
const DISTRIBUTIONS: &str = include_str!("distributions.wgsl");
const ATTENTION: &str = include_str!("attention.wgsl");
const ATTENTION_BACKWARD: &str = include_str!("attention_backward.wgsl");

const HEADER: &str = "//# ";

/// Dimensions of a chunk of a head.
const CHUNK: usize = 64;

/// Chunks of a head.
pub(super) fn chunks(head_dim: usize) -> usize {
    head_dim.div_ceil(CHUNK)
}

/// The source of a kernel. `chunks` matters to attention only.
pub(super) fn kernel(kernel: Kernel, chunks: usize) -> String {
    let (header, body) = section(kernel.name());
    let mut text = String::from(COMMON);
    declare(header, &mut text);
    if chunks > 0 {
        _ = writeln!(text, "const CHUNKS: u32 = {chunks}u;");
    }
    shared(kernel).iter().for_each(|name| text.push_str(section(name).1));
    text.push_str(&repeat(body, chunks));
    text.push_str(entry(kernel.class()));
    text
}

/// The sections that a kernel shares with others.
fn shared(kernel: Kernel) -> &'static [&'static str] {
    match kernel {
        Kernel::Attention => &["attention_common"],
        Kernel::AttentionStats => &["attention_common", "attention_gradients"],
        Kernel::AttentionDq | Kernel::AttentionDkv => {
            &["attention_common", "attention_gradients", "attention_stores"]
        }
        _ => &[],
    }
}

fn sections(file: &str) -> impl Iterator<Item = (&str, &str)> {
    file.split(HEADER).skip(1).filter_map(|section| section.split_once('\n'))
}

/// The header of a section, after its name, and its body.
fn section(name: &str) -> (&'static str, &'static str) {
    [ELEMENTWISE, ROWS, DISTRIBUTIONS, ATTENTION, ATTENTION_BACKWARD]
        .into_iter()
        .flat_map(sections)
        .find_map(|(header, body)| Some((header.strip_prefix(name)?.strip_prefix(": ")?, body)))
        .unwrap_or_else(|| panic!("the kernel {name} has no source"))
}

/// Declares arguments and parameters, the first of which is the number of units of work.
fn declare(header: &str, text: &mut String) {
    let (arguments, parameters) = header.split_once(" [").expect("a header has parameters");
    let (read, written) = arguments.split_once('|').expect("a header has a written argument");
    let read = read.split(',').map(|name| (name, "read"));
    let all = read.chain([(written, "read_write")]).filter(|(name, _)| !name.trim().is_empty());
    for (i, (argument, access)) in all.enumerate() {
        let (name, kind) = argument.trim().split_once(':').unwrap_or((argument.trim(), "f32"));
        let kind = if kind == "atomic" { "atomic<u32>" } else { kind };
        _ = writeln!(text, "@group(0) @binding({i}) var<storage, {access}> {name}: array<{kind}>;");
    }
    text.push_str("struct Parameters {\n");
    for parameter in parameters.trim_end_matches(']').split(", ") {
        let (name, kind) = parameter.split_once(':').unwrap_or((parameter, "u32"));
        _ = writeln!(text, "    {name}: {kind},");
    }
    let work = parameters.split([',', ':', ']']).next().unwrap_or_default();
    _ = write!(text, "}}\nvar<immediate> p: Parameters;\nfn work() -> u32 {{ return p.{work}; }}\n");
}

/// The entry point, which calls `unit` for every unit of work.
fn entry(class: Class) -> &'static str {
    match class {
        Class::Element => {
            "
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + lane;
    if (i < work()) {
        unit(i);
    }
}
"
        }
        Class::Row => {
            "
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = group.y * groups.x + group.x;
    if (i < work()) {
        unit(i, lane);
    }
}
"
        }
    }
}

/// Repeats the lines that are marked so.
fn repeat(body: &str, chunks: usize) -> String {
    let marks = [("// each column", "{j}", 8), ("// each row", "{i}", 8), ("// each chunk", "{c}", chunks)];
    let mut lines: Vec<String> = body.lines().map(str::to_owned).collect();
    for (mark, name, count) in marks {
        let repeated = lines.into_iter().flat_map(|line| match line.strip_suffix(mark) {
            Some(line) => (0..count).map(|i| line.trim_end().replace(name, &i.to_string())).collect(),
            None => vec![line],
        });
        lines = repeated.collect();
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A variant of the kernels of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Product {
    pub(super) backward: bool,
    pub(super) storage: Storage,
    /// Whether inputs and weights are rounded to bfloat16.
    pub(super) rounds: bool,
    /// Whether rows of the input are whole vectors of four.
    pub(super) vectors: bool,
}

/// How weights are stored, without the sizes that are parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Storage {
    F32,
    Bf16,
    F16,
    Int8,
    /// With what is subtracted from a nibble.
    Int4(i32),
}

impl Storage {
    /// The type of four weights in memory, or of the word that holds them.
    fn unit(self) -> &'static str {
        match self {
            Self::F32 => "vec4u",
            Self::Bf16 | Self::F16 => "vec2u",
            Self::Int8 | Self::Int4(_) => "u32",
        }
    }

    /// Decodes weights `k` to `k + 3`, a multiple of four, of row `row`.
    fn decode(self) -> String {
        let at = "(row * p.stride + k) / 4u";
        match self {
            Self::F32 => format!("return bitcast<vec4f>(weights[{at}]);"),
            Self::Bf16 => format!(
                "let w = weights[{at}];
        return bitcast<vec4f>(vec4u(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));"
            ),
            Self::F16 => format!(
                "let w = weights[{at}];
        return half(vec4u(w.x & 0xffffu, w.x >> 16u, w.y & 0xffffu, w.y >> 16u));"
            ),
            Self::Int8 => format!(
                "let w = weights[{at}];
        return scaled(vec4f(vec4i(vec4u(w << 24u, w << 16u, w << 8u, w)) >> vec4u(24u)), row, k);"
            ),
            Self::Int4(bias) => format!(
                "let w = weights[(row * p.stride + k) / 8u] >> (k % 8u * 4u);
        let nibbles = (vec4u(w) >> vec4u(0u, 4u, 8u, 12u)) & vec4u(15u);
        return scaled(vec4f(vec4i(nibbles) - vec4i({bias})), row, k);"
            ),
        }
    }

    fn has_scales(self) -> bool {
        matches!(self, Self::Int8 | Self::Int4(_))
    }
}

const HALF: &str = "
// 16-bit floats, exactly, subnormal ones too.
fn half(h: vec4u) -> vec4f {
    let sign = (h & vec4u(0x8000u)) << vec4u(16u);
    let exponent = (h >> vec4u(10u)) & vec4u(31u);
    let mantissa = h & vec4u(0x3ffu);
    let small = bitcast<vec4u>(vec4f(mantissa) * 5.9604645e-8);
    let plain = ((exponent + 112u) << vec4u(23u)) | (mantissa << vec4u(13u));
    let special = vec4u(0x7f800000u) | (mantissa << vec4u(13u));
    let positive = select(select(plain, special, exponent == vec4u(31u)), small, exponent == vec4u(0u));
    return bitcast<vec4f>(positive | sign);
}
";

const SCALED: &str = "
fn scaled(x: vec4f, row: u32, k: u32) -> vec4f {
    let s = scales[row * (p.k / p.columns) + k / p.columns];
    return x * s.x + s.y;
}
";

impl Product {
    /// Bindings of the input and the weights; scales, the bias and the result follow.
    pub(super) fn source(self) -> String {
        let input = if self.vectors { "vec4f" } else { "f32" };
        let unit = self.storage.unit();
        let mut text = format!(
            "@group(0) @binding(0) var<storage, read> x: array<{input}>;
@group(0) @binding(1) var<storage, read> weights: array<{unit}>;
@group(0) @binding(2) var<storage, read> scales: array<vec2f>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
"
        );
        text.push_str(include_str!("product.wgsl"));
        match self.storage {
            Storage::F16 => text.push_str(HALF),
            storage if storage.has_scales() => text.push_str(SCALED),
            _ => {}
        }
        let round = |x: &str| if self.rounds { format!("rounded({x})") } else { x.to_owned() };
        _ = write!(
            text,
            "
fn decoded(row: u32, k: u32) -> vec4f {{
    if (row < p.n && k < p.k) {{
        {}
    }}
    return vec4f();
}}

fn weight(row: u32, k: u32) -> vec4f {{
    return {};
}}
{}
fn input(row: u32, width: u32, first: u32, at: u32, end: u32) -> vec4f {{
    return {};
}}
",
            self.storage.decode(),
            round("decoded(row, k)"),
            if self.vectors { VECTORS } else { ELEMENTS },
            round("raw(row, width, first, at, end)"),
        );
        let body = if self.backward { include_str!("backward.wgsl") } else { include_str!("forward.wgsl") };
        text.push_str(&repeat(body, 0));
        text
    }
}

const VECTORS: &str = "
// Elements `first + at` to `first + at + 3` of a row of `width` elements, zero from `end` on.
fn raw(row: u32, width: u32, first: u32, at: u32, end: u32) -> vec4f {
    if (row < p.m && at < end) {
        return x[(row * width + first + at) / 4u];
    }
    return vec4f();
}
";

const ELEMENTS: &str = "
// Elements `first + at` to `first + at + 3` of a row of `width` elements, zero from `end` on.
fn raw(row: u32, width: u32, first: u32, at: u32, end: u32) -> vec4f {
    var v = vec4f();
    if (row < p.m) {
        let from_ = row * width + first + at;
        if (at < end) { v.x = x[from_]; }
        if (at + 1u < end) { v.y = x[from_ + 1u]; }
        if (at + 2u < end) { v.z = x[from_ + 2u]; }
        if (at + 3u < end) { v.w = x[from_ + 3u]; }
    }
    return v;
}
";

#[cfg(test)]
mod tests {
    use super::*;
    use naga::back::{hlsl, msl, spv};
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    fn sources() -> Vec<(String, String)> {
        let heads = [1, 2, 4, 8].map(|chunks| (Kernel::Attention, chunks));
        let mut kernels: Vec<(Kernel, usize)> = Kernel::ALL.into_iter().map(|kernel| (kernel, 1)).collect();
        kernels.extend(heads);
        let table = kernels.into_iter().map(|(k, chunks)| (format!("{k:?} {chunks}"), kernel(k, chunks)));
        let mut all: Vec<_> = table.collect();
        for storage in [Storage::F32, Storage::Bf16, Storage::F16, Storage::Int8, Storage::Int4(8)] {
            for choice in 0..8 {
                let [backward, rounds, vectors] = [1, 2, 4].map(|bit| choice & bit != 0);
                let product = Product { backward, storage, rounds, vectors };
                all.push((format!("{product:?}"), product.source()));
            }
        }
        all
    }

    /// Metal and DirectX 12 cannot be tested everywhere, but translated.
    #[test]
    fn kernels_translate_for_every_system() {
        for (name, source) in sources() {
            let module = naga::front::wgsl::parse_str(&source)
                .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source)));
            let info = Validator::new(ValidationFlags::all(), Capabilities::IMMEDIATES)
                .validate(&module)
                .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source)));
            let options = msl::Options { lang_version: (2, 0), ..Default::default() };
            msl::write_string(&module, &info, &options, &Default::default())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let options = hlsl::Options {
                shader_model: hlsl::ShaderModel::V5_1,
                immediates_target: Some(hlsl::BindTarget::default()),
                ..Default::default()
            };
            let mut text = String::new();
            hlsl::Writer::new(&mut text, &options, &Default::default())
                .write(&module, &info, None)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            spv::write_vec(&module, &info, &spv::Options::default(), None)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    /// The smallest memory that groups share, on any device.
    #[test]
    fn groups_share_little_memory() {
        for (name, source) in sources() {
            let module = naga::front::wgsl::parse_str(&source).unwrap();
            let shared =
                module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
            // Sums of the common part are not used where a kernel has memory of its own.
            let sizes = shared.filter(|(_, v)| v.name.as_deref() != Some("sums"));
            let bytes: u32 = sizes.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
            assert!(bytes <= 16_384, "{name}: {bytes} bytes");
        }
    }
}
