// Gradients: modes, backward, grad.
#include "slots.h"
#include "js.h"
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <memory>

namespace waver {
namespace {

napi_value SetGradEnabled(napi_env env, napi_callback_info info) {  // returns the mode before
  Args a(env, info);
  bool before = c10::GradMode::is_enabled();
  c10::GradMode::set_enabled(flag(env, a.v[0]));
  return mkBool(env, before);
}
napi_value GradEnabled(napi_env env, napi_callback_info) { return mkBool(env, c10::GradMode::is_enabled()); }

std::vector<std::unique_ptr<c10::InferenceMode>>& inference() {
  static auto* g = new std::vector<std::unique_ptr<c10::InferenceMode>>();
  return *g;
}
napi_value EnterInference(napi_env, napi_callback_info) {
  inference().push_back(std::make_unique<c10::InferenceMode>(true));
  return nullptr;
}
napi_value LeaveInference(napi_env, napi_callback_info) {
  if (!inference().empty()) inference().pop_back();
  return nullptr;
}

napi_value RequiresGrad(napi_env env, napi_callback_info info) {
  Args a(env, info);
  return mkBool(env, slot(num(env, a.v[0])).requires_grad());
}
napi_value SetRequiresGrad(napi_env env, napi_callback_info info) {
  Args a(env, info);
  slot(num(env, a.v[0])).requires_grad_(flag(env, a.v[1]));
  return nullptr;
}
napi_value IsLeaf(napi_env env, napi_callback_info info) {
  Args a(env, info);
  return mkBool(env, slot(num(env, a.v[0])).is_leaf());
}
// grad(handle, known): 0 when there is none, `known` when that handle is still it, else a new handle
napi_value Grad(napi_env env, napi_callback_info info) {
  Args a(env, info);
  const at::Tensor& g = slot(num(env, a.v[0])).grad();
  if (!g.defined()) return mk(env, 0);
  double known = num(env, a.v[1]);
  if (known != 0 && alive(known) && slot(known).is_same(g)) return mk(env, known);
  return mk(env, put(g));
}
napi_value SetGrad(napi_env env, napi_callback_info info) {  // 0 clears it
  Args a(env, info);
  double h = num(env, a.v[1]);
  slot(num(env, a.v[0])).mutable_grad() = h == 0 ? at::Tensor() : slot(h);
  return nullptr;
}
std::vector<at::Tensor> tensors(napi_env env, napi_value v) {  // 0 is an undefined tensor
  std::vector<at::Tensor> r;
  uint32_t n = length(env, v);
  for (uint32_t i = 0; i < n; i++) {
    double h = num(env, element(env, v, i));
    r.push_back(h == 0 ? at::Tensor() : slot(h));
  }
  return r;
}
// backward(outputs[], gradients[], retainGraph, createGraph, inputs[])
napi_value Backward(napi_env env, napi_callback_info info) {
  Args a(env, info);
  torch::autograd::backward(tensors(env, a.v[0]), tensors(env, a.v[1]), flag(env, a.v[2]), flag(env, a.v[3]), tensors(env, a.v[4]));
  return nullptr;
}
// gradOf(outputs[], inputs[], gradients[], retainGraph, createGraph, allowUnused) -> handles (0: unused)
napi_value GradOf(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto r = torch::autograd::grad(tensors(env, a.v[0]), tensors(env, a.v[1]), tensors(env, a.v[2]), flag(env, a.v[3]), flag(env, a.v[4]), flag(env, a.v[5]));
  napi_value out = mkArray(env, r.size());
  for (size_t i = 0; i < r.size(); i++) napi_set_element(env, out, i, mk(env, put(std::move(r[i]))));
  return out;
}

}  // namespace

void registerAutograd(napi_env env, napi_value e) {
  define(env, e, "setGradEnabled", guarded<SetGradEnabled>);
  define(env, e, "gradEnabled", guarded<GradEnabled>);
  define(env, e, "enterInference", guarded<EnterInference>);
  define(env, e, "leaveInference", guarded<LeaveInference>);
  define(env, e, "requiresGrad", guarded<RequiresGrad>);
  define(env, e, "setRequiresGrad", guarded<SetRequiresGrad>);
  define(env, e, "isLeaf", guarded<IsLeaf>);
  define(env, e, "grad", guarded<Grad>);
  define(env, e, "setGrad", guarded<SetGrad>);
  define(env, e, "backward", guarded<Backward>);
  define(env, e, "gradOf", guarded<GradOf>);
}

}  // namespace waver
