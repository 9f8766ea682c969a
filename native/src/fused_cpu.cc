// CPU kernels of namespace waver::, one pass over memory where aten needs three to six. Gradients are in fused_grad.cc; the
// reference compositions are in nn/fused.ts, and tests hold the two to each other. All arithmetic is float32.
#include "rows.h"
#include <torch/library.h>

namespace {
using namespace waver;

// x [B, S, H, d], any strides but a dense last axis -> contiguous [B, S, H, d].
// group 0: no norm; 1: RMS per head, weight [d]; 2: RMS over the token, weight [H * d]. cos, sin [(B,) S, d / 2] or none.
Tensor normRope(const Tensor& x, const OptTensor& weight, const OptTensor& cos, const OptTensor& sin, int64_t group, double eps) {
  TORCH_CHECK(x.dim() == 4 && x.stride(3) == 1, "norm_rope: x [B, S, H, d] with a dense last axis expected, got [", x.sizes(), "]");
  TORCH_CHECK(cos.has_value() == sin.has_value(), "norm_rope: cos and sin go together");
  int64_t B = x.size(0), S = x.size(1), H = x.size(2), d = x.size(3), D = H * d, half = d / 2;
  TORCH_CHECK(!cos || d % 2 == 0, "norm_rope: odd head dimension ", d);
  Tensor w = weight ? weight->to(at::kFloat).contiguous() : Tensor();
  TORCH_CHECK(!weight || (group > 0 && w.numel() == (group == 1 ? d : D)), "norm_rope: weight of ", weight ? w.numel() : 0, " for heads ", H, " of ", d);
  Rows c(cos, B, S, half, "cos"), s(sin, B, S, half, "sin");
  Tensor out = at::empty({B, S, H, d}, x.options());
  dispatch(x, "norm_rope", [&](auto tag) {
    using T = decltype(tag);
    const T* in = x.const_data_ptr<T>();
    T* o = out.mutable_data_ptr<T>();
    const float* wp = weight ? w.const_data_ptr<float>() : nullptr;
    eachRow(B, S, [&](int64_t i, int64_t j) {
      thread_local std::vector<float> row, turned;
      row.resize(D);
      turned.resize(D);
      float* v = row.data();
      const T* src = in + i * x.stride(0) + j * x.stride(1);
      if (x.stride(2) == d) load(src, v, D);
      else for (int64_t h = 0; h < H; h++) load(src + h * x.stride(2), v + h * d, d);
      if (group > 0) {
        int64_t n = group == 1 ? d : D;
        for (int64_t at = 0; at < D; at += n) {
          float k = 1.f / std::sqrt(squares(v + at, 0, n) / n + static_cast<float>(eps));
          if (wp) for (int64_t e = 0; e < n; e++) v[at + e] = v[at + e] * k * wp[e];
          else for (int64_t e = 0; e < n; e++) v[at + e] *= k;
        }
      }
      if (const float* cr = c.row(i, j)) {
        const float* sr = s.row(i, j);
        float* t = turned.data();
        for (int64_t h = 0; h < D; h += d)
          for (int64_t e = 0; e < half; e++) {
            float a = v[h + 2 * e], b = v[h + 2 * e + 1];
            t[h + 2 * e] = a * cr[e] - b * sr[e];
            t[h + 2 * e + 1] = a * sr[e] + b * cr[e];
          }
        v = t;
      }
      store(v, o + (i * S + j) * D, D);
    });
  });
  return out;
}

// h = x + gate * y (y, gate optional); n = LayerNorm(h) * (1 + scale) + shift. x, y [B, S, D]; the rest broadcast to it.
std::tuple<Tensor, Tensor> gatedNorm(const Tensor& x, const OptTensor& y, const OptTensor& gate, const OptTensor& scale, const OptTensor& shift, bool norm, double eps) {
  TORCH_CHECK(x.dim() == 3 && x.is_contiguous(), "gated_norm: x contiguous [B, S, D] expected, got [", x.sizes(), "]");
  TORCH_CHECK(!y || (y->sizes() == x.sizes() && y->is_contiguous() && y->scalar_type() == x.scalar_type()), "gated_norm: y must be like x");
  int64_t B = x.size(0), S = x.size(1), D = x.size(2);
  Rows g(gate, B, S, D, "gate"), sc(scale, B, S, D, "scale"), sh(shift, B, S, D, "shift");
  Tensor h = y ? at::empty_like(x) : x, n = norm ? at::empty_like(x) : Tensor();
  dispatch(x, "gated_norm", [&](auto tag) {
    using T = decltype(tag);
    const T* xp = x.const_data_ptr<T>();
    const T* yp = y ? y->const_data_ptr<T>() : nullptr;
    T* hp = y ? h.mutable_data_ptr<T>() : nullptr;
    T* np = norm ? n.mutable_data_ptr<T>() : nullptr;
    eachRow(B, S, [&](int64_t i, int64_t j) {
      thread_local std::vector<float> row, other;
      row.resize(D);
      other.resize(D);
      float *v = row.data(), *u = other.data();
      int64_t at = (i * S + j) * D;
      load(xp + at, v, D);
      if (yp) {
        load(yp + at, u, D);
        if (const float* gr = g.row(i, j)) for (int64_t e = 0; e < D; e++) v[e] += gr[e] * u[e];
        else for (int64_t e = 0; e < D; e++) v[e] += u[e];
        store(v, hp + at, D);
      }
      if (!np) return;
      float mean = sum(v, D) / D;
      float k = 1.f / std::sqrt(squares(v, mean, D) / D + static_cast<float>(eps));
      const float *a = sc.row(i, j), *b = sh.row(i, j);
      for (int64_t e = 0; e < D; e++) v[e] = (v[e] - mean) * k;
      if (a) for (int64_t e = 0; e < D; e++) v[e] *= 1.f + a[e];
      if (b) for (int64_t e = 0; e < D; e++) v[e] += b[e];
      store(v, np + at, D);
    });
  });
  return {y ? h : at::alias(x), norm ? n : at::empty({0}, x.options())};
}


// A function of its own: inside the kernel's lambda the compiler left this loop scalar, and the kernel took seven times as long.
[[gnu::noinline]] void silu(float* v, int64_t n) {
  for (int64_t e = 0; e < n; e++) v[e] *= 1.f / (1.f + fastExp(-v[e]));
}

// x [R, C] dense rows: x / max(|x|, eps) * sqrt(C) * weight, then SiLU if asked. Wan's VAE norm on channels-last rows.
Tensor l2NormSilu(const Tensor& x, const Tensor& weight, double eps, bool activate) {
  TORCH_CHECK(x.dim() == 2 && x.is_contiguous(), "l2_norm_silu: x contiguous [R, C] expected, got [", x.sizes(), "]");
  int64_t R = x.size(0), C = x.size(1);
  Tensor w = weight.to(at::kFloat).contiguous(), out = at::empty_like(x);
  TORCH_CHECK(w.numel() == C, "l2_norm_silu: weight of ", w.numel(), " for ", C, " channels");
  dispatch(x, "l2_norm_silu", [&](auto tag) {
    using T = decltype(tag);
    const T* in = x.const_data_ptr<T>();
    T* o = out.mutable_data_ptr<T>();
    const float* wp = w.const_data_ptr<float>();
    at::parallel_for(0, R, 64, [&](int64_t from, int64_t to) {
      std::vector<float> row(C);
      float* v = row.data();
      for (int64_t r = from; r < to; r++) {
        load(in + r * C, v, C);
        float k = std::sqrt(static_cast<float>(C)) / std::max(std::sqrt(squares(v, 0, C)), static_cast<float>(eps));
        for (int64_t e = 0; e < C; e++) v[e] *= k * wp[e];
        if (activate) silu(v, C);
        store(v, o + r * C, C);
      }
    });
  });
  return out;
}

// x [..., C] with a dense last axis and evenly spaced rows -> contiguous x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3):
// GELU's tanh form (Hendrycks and Gimpel 2016) without the tanh.
Tensor geluTanh(const Tensor& x) {
  auto [rows, stride, C] = evenRows(x, "gelu_tanh");
  Tensor out = at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::Contiguous));
  dispatch(x, "gelu_tanh", [&, rows = rows, stride = stride, C = C](auto tag) {
    using T = decltype(tag);
    const T* in = x.const_data_ptr<T>();
    T* o = out.mutable_data_ptr<T>();
    at::parallel_for(0, rows, kGrain, [&](int64_t from, int64_t to) {
      std::vector<float> row(C);
      float* v = row.data();
      for (int64_t r = from; r < to; r++) {
        load(in + r * stride, v, C);
        for (int64_t e = 0; e < C; e++) v[e] = v[e] * geluGate(v[e]);
        store(v, o + r * C, C);
      }
    });
  });
  return out;
}

Tensor geluTanhMeta(const Tensor& x) { return at::empty(x.sizes(), x.options()); }
Tensor normRopeMeta(const Tensor& x, const OptTensor&, const OptTensor&, const OptTensor&, int64_t, double) { return at::empty(x.sizes(), x.options()); }
std::tuple<Tensor, Tensor> gatedNormMeta(const Tensor& x, const OptTensor& y, const OptTensor&, const OptTensor&, const OptTensor&, bool norm, double) {
  return {y ? at::empty_like(x) : at::alias(x), norm ? at::empty_like(x) : at::empty({0}, x.options())};
}
Tensor l2NormSiluMeta(const Tensor& x, const Tensor&, double, bool) { return at::empty_like(x); }

}  // namespace

TORCH_LIBRARY(waver, m) {
  m.def("norm_rope(Tensor x, Tensor? weight, Tensor? cos, Tensor? sin, int group, float eps) -> Tensor");
  m.def("gated_norm(Tensor x, Tensor? y, Tensor? gate, Tensor? scale, Tensor? shift, bool norm, float eps) -> (Tensor, Tensor)");
  m.def("gelu_tanh(Tensor x) -> Tensor");
  m.def("l2_norm_silu(Tensor x, Tensor weight, float eps, bool activate) -> Tensor");
}
TORCH_LIBRARY_IMPL(waver, CPU, m) {
  m.impl("norm_rope", normRope);
  m.impl("gated_norm", gatedNorm);
  m.impl("gelu_tanh", geluTanh);
  m.impl("l2_norm_silu", l2NormSilu);
}
TORCH_LIBRARY_IMPL(waver, Meta, m) {
  m.impl("norm_rope", normRopeMeta);
  m.impl("gated_norm", gatedNormMeta);
  m.impl("gelu_tanh", geluTanhMeta);
  m.impl("l2_norm_silu", l2NormSiluMeta);
}
