// What the fused CPU kernels share: rows of bits as float32, operands that broadcast to rows, work split by rows.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

namespace waver {
using at::Tensor;
using OptTensor = std::optional<Tensor>;

constexpr int64_t kGrain = 8;  // rows a thread takes at least; a row is one token

// Plain loops over bit patterns: the compiler vectorises them (KERNEL_FLAGS), and tails need no second path.
inline void load(const float* p, float* out, int64_t n) { std::memcpy(out, p, static_cast<size_t>(n) * sizeof(float)); }
inline void load(const at::BFloat16* p, float* out, int64_t n) {
  auto* bits = reinterpret_cast<const uint16_t*>(p);
  auto* o = reinterpret_cast<uint32_t*>(out);
  for (int64_t i = 0; i < n; i++) o[i] = static_cast<uint32_t>(bits[i]) << 16;
}
inline void store(const float* p, float* out, int64_t n) { std::memcpy(out, p, static_cast<size_t>(n) * sizeof(float)); }
inline void store(const float* p, at::BFloat16* out, int64_t n) {  // round to nearest even, as c10 does
  auto* v = reinterpret_cast<const uint32_t*>(p);
  auto* o = reinterpret_cast<uint16_t*>(out);
  for (int64_t i = 0; i < n; i++) {
    uint32_t x = v[i], rounded = (x + 0x7FFFu + ((x >> 16) & 1u)) >> 16;
    o[i] = static_cast<uint16_t>((x & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
  }
}
inline float sum(const float* p, int64_t n) {
  float s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t i = 0; i < n; i++) s += p[i];
  return s;
}
inline float squares(const float* p, float mean, int64_t n) {
  float s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t i = 0; i < n; i++) s += (p[i] - mean) * (p[i] - mean);
  return s;
}

// A float32 operand broadcast to the rows of [B, S, ...]; null data when it is absent.
struct Rows {
  Tensor hold;
  const float* data = nullptr;
  int64_t b = 0, s = 0;
  Rows() = default;
  Rows(const OptTensor& t, int64_t B, int64_t S, int64_t n, const char* name) {
    if (!t) return;
    TORCH_CHECK(t->size(-1) == n, name, " [", t->sizes(), "] must end in ", n);
    hold = t->to(at::kFloat);
    if (hold.stride(-1) != 1) hold = hold.contiguous();
    hold = hold.expand({B, S, n});
    data = hold.const_data_ptr<float>();
    b = hold.stride(0);
    s = hold.stride(1);
  }
  const float* row(int64_t i, int64_t j) const { return data ? data + i * b + j * s : nullptr; }
};

template <class F>
void dispatch(const Tensor& x, const char* name, F f) {
  if (x.scalar_type() == at::kFloat) f(float{});
  else if (x.scalar_type() == at::kBFloat16) f(at::BFloat16{});
  else TORCH_CHECK(false, name, ": float32 or bfloat16 expected, got ", x.scalar_type());
}
template <class F>
void eachRow(int64_t B, int64_t S, F f) {
  at::parallel_for(0, B * S, kGrain, [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; r++) f(r / S, r % S);
  });
}

// exp as 2^n * p(r), coefficients of Cephes' expf (2 ulp): std::exp would not be vectorised.
inline float fastExp(float x) {
  x = x < -87.f ? -87.f : x > 87.f ? 87.f : x;
  float n = (x * 1.44269504f + 12582912.f) - 12582912.f;  // 1.5 * 2^23: rounds to the nearest integer
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  float y = p * r * r + r + 1.f;
  int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return y * scale;
}

// Rows of x as one stride: contiguous tensors and slices of the last axis are; anything else is refused.
inline std::tuple<int64_t, int64_t, int64_t> evenRows(const Tensor& x, const char* name) {
  TORCH_CHECK(x.dim() >= 1 && x.stride(-1) == 1, name, ": a dense last axis expected");
  int64_t C = x.size(-1), rows = C == 0 ? 0 : x.numel() / C, stride = x.dim() > 1 ? x.stride(-2) : C;
  for (int64_t i = x.dim() - 3; i >= 0; i--) TORCH_CHECK(x.size(i) == 1 || x.stride(i) == x.stride(i + 1) * x.size(i + 1), name, ": evenly spaced rows expected, got strides ", x.strides());
  return {rows, stride, C};
}

// gelu(x) = x * geluGate(x)
constexpr float kGelu = 0.7978845608f, kCubic = 0.044715f;  // sqrt(2 / pi)
inline float geluGate(float x) { return 1.f / (1.f + fastExp(-2.f * kGelu * (x + kCubic * x * x * x))); }

}  // namespace waver
