// Gradients of the fused CPU kernels, so that training takes them too. Sums over tokens are made in pieces of fixed
// length and added in order: the result does not depend on the number of threads.
#include "rows.h"
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>
#include <algorithm>

namespace {
using namespace waver;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kPiece = 64;  // tokens whose sums are kept together

Tensor rowsDense(const Tensor& t) { return t.stride(-1) == 1 ? t : t.contiguous(); }

// grad of norm_rope: g like its result, x its input -> grads of x [B, S, H, d] and of the weight (float32)
std::tuple<Tensor, Tensor> normRopeGrad(const Tensor& grad, const Tensor& x, const OptTensor& weight, const OptTensor& cos, const OptTensor& sin, int64_t group, double eps) {
  int64_t B = x.size(0), S = x.size(1), H = x.size(2), d = x.size(3), D = H * d, half = d / 2, n = group == 1 ? d : D;
  Tensor g = rowsDense(grad.to(x.scalar_type())), w = weight ? weight->to(at::kFloat).contiguous() : Tensor();
  Rows c(cos, B, S, half, "cos"), s(sin, B, S, half, "sin");
  int64_t R = B * S, pieces = (R + kPiece - 1) / kPiece;
  Tensor gx = at::empty({B, S, H, d}, x.options()), partial = weight ? at::zeros({pieces, n}, at::kFloat) : Tensor();
  dispatch(x, "norm_rope", [&](auto tag) {
    using T = decltype(tag);
    const T *in = x.const_data_ptr<T>(), *gp = g.const_data_ptr<T>();
    T* o = gx.mutable_data_ptr<T>();
    const float* wp = weight ? w.const_data_ptr<float>() : nullptr;
    float* sums = weight ? partial.mutable_data_ptr<float>() : nullptr;
    at::parallel_for(0, pieces, 1, [&](int64_t from, int64_t to) {
      std::vector<float> rowX(D), rowG(D), turned(D);
      for (int64_t p = from; p < to; p++)
        for (int64_t r = p * kPiece; r < std::min(R, (p + 1) * kPiece); r++) {
          int64_t i = r / S, j = r % S;
          float *v = rowX.data(), *u = rowG.data();
          const T* src = in + i * x.stride(0) + j * x.stride(1);
          const T* gsrc = gp + i * g.stride(0) + j * g.stride(1);
          for (int64_t h = 0; h < H; h++) load(src + h * x.stride(2), v + h * d, d), load(gsrc + h * g.stride(2), u + h * d, d);
          if (const float* cr = c.row(i, j)) {  // the inverse rotation
            const float* sr = s.row(i, j);
            float* t = turned.data();
            for (int64_t h = 0; h < D; h += d)
              for (int64_t e = 0; e < half; e++) {
                float a = u[h + 2 * e], b = u[h + 2 * e + 1];
                t[h + 2 * e] = a * cr[e] + b * sr[e];
                t[h + 2 * e + 1] = b * cr[e] - a * sr[e];
              }
            u = t;
          }
          if (group > 0)
            for (int64_t at = 0; at < D; at += n) {
              float *xe = v + at, *ge = u + at;
              float k = 1.f / std::sqrt(squares(xe, 0, n) / n + static_cast<float>(eps)), dot = 0;
              if (wp) {
                float* sum = sums + p * n;
                for (int64_t e = 0; e < n; e++) sum[e] += ge[e] * xe[e] * k, ge[e] *= wp[e];
              }
#pragma omp simd reduction(+ : dot)
              for (int64_t e = 0; e < n; e++) dot += ge[e] * xe[e];
              float back = k * k * k * dot / n;
              for (int64_t e = 0; e < n; e++) ge[e] = k * ge[e] - back * xe[e];
            }
          store(u, o + r * D, D);
        }
    });
  });
  return {gx, weight ? partial.sum(0) : Tensor()};
}

struct GatedGrads {
  Tensor x, y, gate, scale, shift;
};

// Sums [B, D] brought to the shape of an operand that broadcast over tokens (and perhaps over samples).
Tensor like(const Tensor& sums, const Tensor& operand) { return sums.unsqueeze(1).sum_to_size(operand.dim() == 3 ? operand.sizes() : at::IntArrayRef({1, 1, sums.size(1)})).reshape(operand.sizes()).to(operand.scalar_type()); }

// h = x + gate * y; n = LayerNorm(h) * (1 + scale) + shift. gh, gn may be undefined. gate, scale, shift are the same for
// all tokens of a sample: [B, 1, D] or [D].
GatedGrads gatedNormGrad(const Tensor& gh, const Tensor& gn, const Tensor& h, const Tensor& y, const Tensor& gate, const Tensor& scale, const Tensor& shift, double eps) {
  int64_t B = h.size(0), S = h.size(1), D = h.size(2), pieces = (S + kPiece - 1) / kPiece;
  auto dense = [&](const Tensor& t) { return t.defined() ? t.to(h.scalar_type()).contiguous() : Tensor(); };
  Tensor a = dense(gh), b = dense(gn);
  auto opt = [](const Tensor& t) { return t.defined() ? OptTensor(t) : std::nullopt; };
  Rows g(opt(gate), B, S, D, "gate"), sc(opt(scale), B, S, D, "scale");
  Tensor gx = at::empty_like(h), gy = y.defined() && gate.defined() ? at::empty_like(h) : Tensor();
  Tensor partial = at::zeros({B, pieces, 3, D}, at::kFloat);
  dispatch(h, "gated_norm", [&](auto tag) {
    using T = decltype(tag);
    auto data = [](const Tensor& t) { return t.defined() ? t.const_data_ptr<T>() : nullptr; };
    const T *hp = data(h), *yp = data(y), *ap = data(a), *bp = data(b);
    T *xo = gx.mutable_data_ptr<T>(), *yo = gy.defined() ? gy.mutable_data_ptr<T>() : nullptr;
    float* sums = partial.mutable_data_ptr<float>();
    at::parallel_for(0, B * pieces, 1, [&](int64_t from, int64_t to) {
      std::vector<float> rowH(D), rowN(D), rowG(D);
      float *v = rowH.data(), *u = rowN.data(), *t = rowG.data();
      for (int64_t p = from; p < to; p++) {
        int64_t i = p / pieces, first = (p % pieces) * kPiece;
        float *sumGate = sums + p * 3 * D, *sumScale = sumGate + D, *sumShift = sumScale + D;
        for (int64_t j = first; j < std::min(S, first + kPiece); j++) {
          int64_t at = (i * S + j) * D;
          if (ap) load(ap + at, t, D);
          else std::fill(t, t + D, 0.f);
          if (bp) {
            load(hp + at, v, D);
            load(bp + at, u, D);
            float mean = sum(v, D) / D, k = 1.f / std::sqrt(squares(v, mean, D) / D + static_cast<float>(eps));
            for (int64_t e = 0; e < D; e++) v[e] = (v[e] - mean) * k;
            for (int64_t e = 0; e < D; e++) sumScale[e] += u[e] * v[e], sumShift[e] += u[e];
            if (const float* sr = sc.row(i, j)) for (int64_t e = 0; e < D; e++) u[e] *= 1.f + sr[e];
            float m = 0, dot = 0;
#pragma omp simd reduction(+ : m, dot)
            for (int64_t e = 0; e < D; e++) m += u[e], dot += u[e] * v[e];
            m /= D, dot /= D;
            for (int64_t e = 0; e < D; e++) t[e] += k * (u[e] - m - v[e] * dot);
          }
          store(t, xo + at, D);
          if (yo) {
            const float* gr = g.row(i, j);
            load(yp + at, u, D);
            for (int64_t e = 0; e < D; e++) sumGate[e] += t[e] * u[e], t[e] *= gr[e];
            store(t, yo + at, D);
          }
        }
      }
    });
  });
  Tensor sums = partial.sum(1);
  auto of = [&](int64_t which, const Tensor& operand) { return operand.defined() ? like(sums.select(1, which), operand) : Tensor(); };
  return {gx, gy.defined() ? gy : y.defined() ? gx : Tensor(), of(0, gate), of(1, scale), of(2, shift)};
}

bool recording(std::initializer_list<const Tensor*> tensors) {
  return c10::GradMode::is_enabled() && std::any_of(tensors.begin(), tensors.end(), [](const Tensor* t) { return t->defined() && t->requires_grad(); });
}
Tensor orNone(const OptTensor& t) { return t ? *t : Tensor(); }
OptTensor orNull(const Tensor& t) { return t.defined() ? OptTensor(t) : std::nullopt; }
void firstOrder() { TORCH_CHECK(!c10::GradMode::is_enabled(), "a fused kernel has no second derivative: run the composition in withoutFusion()"); }

using NormRopeOp = Tensor(const Tensor&, const OptTensor&, const OptTensor&, const OptTensor&, int64_t, double);
Tensor callNormRope(const Tensor& x, const OptTensor& weight, const OptTensor& cos, const OptTensor& sin, int64_t group, double eps) {
  static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("waver::norm_rope", "").typed<NormRopeOp>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, weight, cos, sin, group, eps);
}
struct NormRope : torch::autograd::Function<NormRope> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptTensor& weight, const OptTensor& cos, const OptTensor& sin, int64_t group, double eps) {
    ctx->save_for_backward({x, orNone(weight), orNone(cos), orNone(sin)});
    ctx->saved_data["group"] = group;
    ctx->saved_data["eps"] = eps;
    return callNormRope(x, weight, cos, sin, group, eps);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    firstOrder();
    auto s = ctx->get_saved_variables();
    auto [x, weight] = normRopeGrad(grads[0], s[0], orNull(s[1]), orNull(s[2]), orNull(s[3]), ctx->saved_data["group"].toInt(), ctx->saved_data["eps"].toDouble());
    return {x, weight.defined() ? weight.reshape(s[1].sizes()).to(s[1].scalar_type()) : Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};
Tensor normRopeAutograd(const Tensor& x, const OptTensor& weight, const OptTensor& cos, const OptTensor& sin, int64_t group, double eps) {
  Tensor w = orNone(weight);
  return recording({&x, &w}) ? NormRope::apply(x, weight, cos, sin, group, eps) : callNormRope(x, weight, cos, sin, group, eps);
}

using GatedNormOp = std::tuple<Tensor, Tensor>(const Tensor&, const OptTensor&, const OptTensor&, const OptTensor&, const OptTensor&, bool, double);
std::tuple<Tensor, Tensor> callGatedNorm(const Tensor& x, const OptTensor& y, const OptTensor& gate, const OptTensor& scale, const OptTensor& shift, bool norm, double eps) {
  static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("waver::gated_norm", "").typed<GatedNormOp>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, y, gate, scale, shift, norm, eps);
}
struct GatedNorm : torch::autograd::Function<GatedNorm> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const OptTensor& y, const OptTensor& gate, const OptTensor& scale, const OptTensor& shift, bool norm, double eps) {
    auto [h, n] = callGatedNorm(x, y, gate, scale, shift, norm, eps);
    if (!y) h = x;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({h, orNone(y), orNone(gate), orNone(scale), orNone(shift)});
    ctx->saved_data["eps"] = eps;
    return {h, n};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    firstOrder();
    auto s = ctx->get_saved_variables();
    if (!grads[0].defined() && !grads[1].defined()) return variable_list(7);
    auto g = gatedNormGrad(grads[0], grads[1], s[0], s[1], s[2], s[3], s[4], ctx->saved_data["eps"].toDouble());
    return {g.x, g.y, g.gate, g.scale, g.shift, Tensor(), Tensor()};
  }
};
std::tuple<Tensor, Tensor> gatedNormAutograd(const Tensor& x, const OptTensor& y, const OptTensor& gate, const OptTensor& scale, const OptTensor& shift, bool norm, double eps) {
  Tensor a = orNone(y), b = orNone(gate), c = orNone(scale), d = orNone(shift);
  if (!recording({&x, &a, &b, &c, &d})) return callGatedNorm(x, y, gate, scale, shift, norm, eps);
  auto out = GatedNorm::apply(x, y, gate, scale, shift, norm, eps);
  return {out[0], out[1]};
}

Tensor geluGrad(const Tensor& grad, const Tensor& x) {
  auto [rows, stride, C] = evenRows(x, "gelu_tanh");
  Tensor g = grad.to(x.scalar_type()).contiguous(), gx = at::empty_like(g);
  dispatch(x, "gelu_tanh", [&, rows = rows, stride = stride, C = C](auto tag) {
    using T = decltype(tag);
    const T *in = x.const_data_ptr<T>(), *gp = g.const_data_ptr<T>();
    T* o = gx.mutable_data_ptr<T>();
    at::parallel_for(0, rows, 8, [&](int64_t from, int64_t to) {
      std::vector<float> row(C), other(C);
      float *v = row.data(), *u = other.data();
      for (int64_t r = from; r < to; r++) {
        load(in + r * stride, v, C);
        load(gp + r * C, u, C);
        for (int64_t e = 0; e < C; e++) {
          float s = geluGate(v[e]), slope = 2.f * kGelu * (1.f + 3.f * kCubic * v[e] * v[e]);
          u[e] *= s * (1.f + v[e] * (1.f - s) * slope);
        }
        store(u, o + r * C, C);
      }
    });
  });
  return gx;
}
Tensor callGelu(const Tensor& x) {
  static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("waver::gelu_tanh", "").typed<Tensor(const Tensor&)>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x);
}
struct Gelu : torch::autograd::Function<Gelu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    ctx->save_for_backward({x});
    return callGelu(x);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    firstOrder();
    return {geluGrad(grads[0], ctx->get_saved_variables()[0])};
  }
};
Tensor geluAutograd(const Tensor& x) { return recording({&x}) ? Gelu::apply(x) : callGelu(x); }

}  // namespace

TORCH_LIBRARY_IMPL(waver, AutogradCPU, m) {
  m.impl("norm_rope", normRopeAutograd);
  m.impl("gated_norm", gatedNormAutograd);
  m.impl("gelu_tanh", geluAutograd);
}
