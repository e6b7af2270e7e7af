// What every kernel file starts with. NVRTC compiles without any header, so types and intrinsics that
// headers would bring are spelled out here.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef signed char i8;

#define THREADS 256
#define WARP 32
#define ALL_LANES 0xffffffffu
// The prefix keeps the names apart from those of functions that are built in, such as norm.
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(THREADS) fathom_##name

// The parameters of a launch; word 0 is the number of units of work.
struct Params {
    u32 v[16];
};

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float parameter_float(u32 bits) { return __uint_as_float(bits); }

// One thread per unit of work.
#define ELEMENT(id)                                            \
    const size_t id = (size_t)blockIdx.x * THREADS + threadIdx.x; \
    if (id >= p.v[0]) return

// One workgroup per unit of work.
#define ROW(id) const size_t id = blockIdx.x

__device__ __forceinline__ double warp_sum(double x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

// The larger of two numbers; NaN if either is.
__device__ __forceinline__ float larger(float a, float b) { return a > b || a != a ? a : b; }

__device__ __forceinline__ float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x = larger(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// The sums of N numbers over a workgroup, returned to all threads. The order is fixed.
template <int N>
__device__ __forceinline__ void group_sums(double (&x)[N]) {
    __shared__ double parts[THREADS / WARP][N];
    __syncthreads();
    for (int i = 0; i < N; i++) {
        double sum = warp_sum(x[i]);
        if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP][i] = sum;
    }
    __syncthreads();
    for (int i = 0; i < N; i++) {
        double sum = 0.0;
        for (int w = 0; w < THREADS / WARP; w++) sum += parts[w][i];
        x[i] = sum;
    }
}

__device__ __forceinline__ double group_sum(double x) {
    double sums[1] = {x};
    group_sums(sums);
    return sums[0];
}

__device__ __forceinline__ float group_max(float x) {
    __shared__ float parts[THREADS / WARP];
    __syncthreads();
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    x = parts[0];
    for (int w = 1; w < THREADS / WARP; w++) x = larger(x, parts[w]);
    return x;
}
