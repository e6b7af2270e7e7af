//! Impossible shapes cause the documented panic before anything is read or written.

use fathom_kernels::attention::{AttentionRun, AttentionShape, HeadBias, KvSegment, Visibility, attend};
use fathom_kernels::elementwise::{self, Activation, Rotation};
use fathom_kernels::{Dtype, Linear, OutOfMemory, backward, norm};

/// Half the range of sizes: twice this wraps to 0.
const HALF: usize = 1 << (usize::BITS - 1);

const SHAPE: AttentionShape = AttentionShape {
    heads: 1,
    kv_heads: 1,
    head_dim: 4,
    scale: 1.0,
    softcap: None,
    visibility: Visibility::Causal,
};

fn segment(keys: &[f32], stride: usize, count: usize) -> KvSegment<'_> {
    KvSegment { keys, values: keys, stride, count }
}

#[track_caller]
fn panics(expected: &str, f: impl FnOnce() + std::panic::UnwindSafe) {
    let panic = std::panic::catch_unwind(f).expect_err("this must panic");
    let message = panic.downcast_ref::<String>().cloned();
    let message = message.or(panic.downcast_ref::<&str>().map(|m| (*m).to_owned())).unwrap_or_default();
    assert!(message.contains(expected), "the panic says '{message}'");
}

const TOO_LARGE: &str = "a shape is larger than any memory";

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "the subject of the test")]
fn inverted_run_does_not_shrink_the_output() {
    let keys = [0.0; 16];
    let run =
        |rows, count: usize| AttentionRun { rows, first: 4 - count, segments: vec![segment(&keys, 4, 4)] };
    // The second run subtracts two rows, so that an output of two rows would seem to fit four.
    let runs = || [run(0..4, 4), run(4..2, 0)];
    panics("runs must follow each other", || {
        attend(&SHAPE, HeadBias::default(), &[0.0; 16], 4, &runs(), &mut [0.0; 8])
    });
}

#[test]
fn width_of_heads_does_not_wrap() {
    let shape = AttentionShape { heads: HALF, kv_heads: HALF, head_dim: 2, ..SHAPE };
    panics(TOO_LARGE, || attend(&shape, HeadBias::default(), &[], 0, &[], &mut []));
    panics(TOO_LARGE, || backward::attend(&shape, HeadBias::default(), &[], &[], &[], &mut []));
    // The queries fit, but with keys and values a row is 2^64 elements wide.
    let shape = AttentionShape { heads: HALF / 2, kv_heads: HALF / 2, head_dim: 1, ..SHAPE };
    panics(TOO_LARGE, || {
        backward::attend(
            &AttentionShape { head_dim: 2, ..shape },
            HeadBias::default(),
            &[],
            &[],
            &[],
            &mut [],
        )
    });
}

#[test]
fn rows_times_stride_does_not_wrap() {
    let keys = [0.0; 8];
    let run = || [AttentionRun { rows: 0..2, first: 0, segments: vec![segment(&keys, 4, 2)] }];
    panics(TOO_LARGE, || attend(&SHAPE, HeadBias::default(), &[0.0; 8], HALF, &run(), &mut [0.0; 8]));
    let text = 0..HALF;
    panics(TOO_LARGE, || {
        backward::attend(&SHAPE, HeadBias::default(), &[], std::slice::from_ref(&text), &[], &mut [])
    });
}

#[test]
fn segments_shorter_than_they_say_are_noticed_at_once() {
    let keys = [0.0; 8];
    for (stride, count) in [(4, 3), (HALF, 3), (5, 2)] {
        let run =
            || [AttentionRun { rows: 0..1, first: count - 1, segments: vec![segment(&keys, stride, count)] }];
        assert!(
            std::panic::catch_unwind(|| attend(
                &SHAPE,
                HeadBias::default(),
                &[0.0; 4],
                4,
                &run(),
                &mut [0.0; 4]
            ))
            .is_err()
        );
    }
    let run = || [AttentionRun { rows: 0..2, first: usize::MAX, segments: vec![segment(&keys, 4, 1)] }];
    panics("segments must cover", || {
        attend(&SHAPE, HeadBias::default(), &[0.0; 8], 4, &run(), &mut [0.0; 8])
    });
}

#[test]
fn size_of_packed_panels_does_not_wrap() {
    for (n, k) in [(HALF / 16, 32), (32, HALF / 16), (1, HALF)] {
        let pack = move || drop(Linear::pack(n, k, Dtype::F32, None, |_, _| Ok::<(), OutOfMemory>(())));
        panics(TOO_LARGE, pack);
    }
}

#[test]
fn layers_without_inputs_or_outputs_are_refused() {
    for (n, k) in [(0, 4), (4, 0)] {
        let pack = move || drop(Linear::pack(n, k, Dtype::F32, None, |_, _| Ok::<(), OutOfMemory>(())));
        panics("a linear layer must have inputs and outputs", pack);
    }
}

#[test]
fn zero_widths_are_refused_by_name() {
    let rotation = || Rotation { cos: vec![], sin: vec![], half: 0, places: vec![0] };
    panics("a head must have a width", move || elementwise::rotate(&mut [], 0, 1, 0, &rotation()));
    panics("a head must have a width", move || backward::rotate(&mut [], 0, 1, 0, &rotation()));
    panics("a gate must have a width", || elementwise::gated(Activation::Silu, &[], 0, &mut []));
    panics("a gate must have a width", || backward::gated(Activation::Silu, &[], 0, &[], &mut []));
    panics("a row must have a width", || norm::rows(&mut [], 0, |_| ()));
    let shape = AttentionShape { head_dim: 0, ..SHAPE };
    panics("must not be empty", move || attend(&shape, HeadBias::default(), &[], 0, &[], &mut []));
    panics("must not be empty", move || {
        backward::attend(&shape, HeadBias::default(), &[], &[], &[], &mut [])
    });
}
