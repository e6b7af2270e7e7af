// Multiply-adds on registers alone, to measure what a device can do at most.

#define CHAINS 8

// Parameters: threads, rounds of 4 * CHAINS multiply-adds.
KERNEL(peak_f32)(const float* seeds, float* out, Params p) {
    ELEMENT(i);
    const float factor = seeds[0], term = seeds[1];
    float sums[CHAINS];
    for (int c = 0; c < CHAINS; c++) sums[c] = (float)(threadIdx.x + c);
    for (u32 round = 0; round < p.v[1]; round++) {
#pragma unroll
        for (int c = 0; c < 4 * CHAINS; c++) sums[c % CHAINS] = fmaf(sums[c % CHAINS], factor, term);
    }
    float sum = 0.0f;
    for (int c = 0; c < CHAINS; c++) sum += sums[c];
    out[i] = sum;
}

// Parameters: threads, rounds of CHAINS instructions per warp, of 16 * 8 * 16 multiply-adds.
KERNEL(peak_bf16)(const u32* seeds, float* out, Params p) {
    ELEMENT(i);
    const u32 x = seeds[0], y = seeds[1];
    float sums[CHAINS][4] = {};
    for (u32 round = 0; round < p.v[1]; round++) {
#pragma unroll
        for (int c = 0; c < CHAINS; c++) {
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                         "{%4, %4, %5, %5}, {%4, %5}, {%0, %1, %2, %3};"
                         : "+f"(sums[c][0]), "+f"(sums[c][1]), "+f"(sums[c][2]), "+f"(sums[c][3])
                         : "r"(x), "r"(y));
        }
    }
    float sum = 0.0f;
    for (int c = 0; c < CHAINS; c++) sum += sums[c][0] + sums[c][1] + sums[c][2] + sums[c][3];
    out[i] = sum;
}
