// Slot table, tensor metadata, bytes in and out.
#include "slots.h"
#include "js.h"
#include <ATen/ops/empty.h>
#include <ATen/ops/contiguous.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <c10/core/Scalar.h>
#include <cstring>
#include <sstream>
#include <unordered_map>

namespace waver {
namespace {

constexpr double kIndex = 16777216.0;        // 2^24 slots
constexpr uint32_t kLastGeneration = 1u << 28;  // 24 + 28 bits stay under 2^53

struct Slot {
  at::Tensor tensor;
  uint32_t generation = 1;
};
std::vector<Slot>& slots() {
  static auto* s = new std::vector<Slot>();  // never destroyed: finalisers may run after static destructors
  return *s;
}
std::vector<uint32_t>& freeSlots() {
  static auto* s = new std::vector<uint32_t>();
  return *s;
}
size_t live = 0;

Slot* find(double handle) {
  if (!(handle >= kIndex) || handle >= 9007199254740992.0) return nullptr;
  auto bits = static_cast<uint64_t>(handle);
  uint32_t index = bits & 0xFFFFFF, generation = static_cast<uint32_t>(bits >> 24);
  auto& all = slots();
  if (index >= all.size() || all[index].generation != generation || !all[index].tensor.defined()) return nullptr;
  return &all[index];
}

const std::unordered_map<std::string, at::ScalarType>& dtypes() {
  static const auto* m = new std::unordered_map<std::string, at::ScalarType>{
      {"float32", at::kFloat}, {"float64", at::kDouble}, {"float16", at::kHalf}, {"bfloat16", at::kBFloat16},
      {"int8", at::kChar}, {"uint8", at::kByte}, {"int16", at::kShort}, {"int32", at::kInt}, {"int64", at::kLong},
      {"bool", at::kBool}, {"float8_e4m3fn", at::kFloat8_e4m3fn}, {"float8_e5m2", at::kFloat8_e5m2},
      {"complex64", at::kComplexFloat}, {"complex128", at::kComplexDouble}, {"uint16", at::kUInt16},
      {"uint32", at::kUInt32}, {"uint64", at::kUInt64}};
  return *m;
}

napi_ref errorClass = nullptr;
napi_value SetErrorClass(napi_env env, napi_callback_info info) {
  Args a(env, info);
  napi_create_reference(env, a.v[0], 1, &errorClass);
  return nullptr;
}

napi_value Free(napi_env env, napi_callback_info info) {  // free(handle): true when it was alive
  Args a(env, info);
  return mkBool(env, drop(num(env, a.v[0])));
}
napi_value FreeMany(napi_env env, napi_callback_info info) {  // freeMany(Float64Array, count)
  Args a(env, info);
  Bytes b = bytes(env, a.v[0]);
  auto n = static_cast<size_t>(num(env, a.v[1]));
  if (n * 8 > b.size) throw Failure("op_arguments", "freeMany: count past the end");
  auto* h = reinterpret_cast<const double*>(b.data);
  size_t done = 0;
  for (size_t i = 0; i < n; i++) done += h[i] != 0 && drop(h[i]);
  return mk(env, static_cast<double>(done));
}
napi_value Alive(napi_env env, napi_callback_info info) {
  Args a(env, info);
  return mkBool(env, alive(num(env, a.v[0])));
}
napi_value Live(napi_env env, napi_callback_info) { return mk(env, static_cast<double>(live)); }

// meta(handle, Float64Array): [ndim, dtype, device type, device index, contiguous, nbytes of storage, sizes ...]
napi_value Meta(napi_env env, napi_callback_info info) {
  Args a(env, info);
  const auto& t = slot(num(env, a.v[0]));
  Bytes b = bytes(env, a.v[1]);
  auto* out = reinterpret_cast<double*>(b.data);
  if (b.size < (6 + static_cast<size_t>(t.dim())) * 8) throw Failure("op_arguments", "meta: too many dimensions");
  out[0] = static_cast<double>(t.dim());
  out[1] = static_cast<double>(t.scalar_type());
  out[2] = static_cast<double>(t.device().type());
  out[3] = t.device().index();
  out[4] = t.is_contiguous();
  out[5] = t.has_storage() ? static_cast<double>(t.storage().nbytes()) : 0;
  for (int64_t i = 0; i < t.dim(); i++) out[6 + i] = static_cast<double>(t.size(i));
  return nullptr;
}
napi_value Strides(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto s = slot(num(env, a.v[0])).strides();
  napi_value r = mkArray(env, s.size());
  for (size_t i = 0; i < s.size(); i++) napi_set_element(env, r, i, mk(env, static_cast<double>(s[i])));
  return r;
}
// version(handle): how often it was changed in place; -1 where that is not counted (made in inference mode)
napi_value Version(napi_env env, napi_callback_info info) {
  Args a(env, info);
  const auto& t = slot(num(env, a.v[0]));
  return mk(env, t.is_inference() ? -1 : static_cast<double>(t._version()));
}
napi_value DtypeCode(napi_env env, napi_callback_info info) {
  Args a(env, info);
  return mk(env, static_cast<double>(parseDtype(str(env, a.v[0]))));
}
napi_value Item(napi_env env, napi_callback_info info) {
  Args a(env, info);
  const auto& t = slot(num(env, a.v[0]));
  if (t.numel() != 1) throw Failure("tensor_shape", "item: a tensor of one element was expected, this is " + describe(t));
  auto s = at::_local_scalar_dense(t.dim() ? t.reshape({}) : t);
  return mk(env, s.isBoolean() ? static_cast<double>(s.to<bool>()) : s.to<double>());
}
// read(handle, typedArray): copies the elements, row-major, into the array (its byte length must fit exactly)
napi_value Read(napi_env env, napi_callback_info info) {
  Args a(env, info);
  at::Tensor t = slot(num(env, a.v[0])).detach().to(at::kCPU).contiguous();
  Bytes b = bytes(env, a.v[1]);
  if (b.size != t.nbytes()) throw Failure("tensor_shape", "read: the array has " + std::to_string(b.size) + " bytes, the tensor " + describe(t) + " has " + std::to_string(t.nbytes()));
  if (b.size) std::memcpy(b.data, t.const_data_ptr(), b.size);
  return nullptr;
}
// fromBytes(typedArray, dtype, shape): a new CPU tensor holding a copy
napi_value FromBytes(napi_env env, napi_callback_info info) {
  Args a(env, info);
  Bytes b = bytes(env, a.v[0]);
  auto dtype = parseDtype(str(env, a.v[1]));
  auto shape = ints(env, a.v[2]);
  for (auto s : shape)
    if (s < 0) throw Failure("tensor_shape", "fromBytes: a negative size");
  at::Tensor t = at::empty(shape, at::TensorOptions().dtype(dtype));
  if (t.nbytes() != b.size) throw Failure("tensor_shape", "fromBytes: " + describe(t) + " needs " + std::to_string(t.nbytes()) + " bytes, " + std::to_string(b.size) + " given");
  if (b.size) std::memcpy(t.mutable_data_ptr(), b.data, b.size);
  return mk(env, put(std::move(t)));
}

}  // namespace

void throwJs(napi_env env, const std::string& code, const std::string& message) {
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending) return;
  napi_value cls = nullptr, error = nullptr;
  if (errorClass) napi_get_reference_value(env, errorClass, &cls);
  napi_value argv[2] = {mkStr(env, code), mkStr(env, message)};
  if (cls && napi_new_instance(env, cls, 2, argv, &error) == napi_ok) {
    napi_throw(env, error);
    return;
  }
  napi_throw_error(env, code.c_str(), message.c_str());
}

double put(at::Tensor t) {
  if (!t.defined()) return 0;
  auto& all = slots();
  auto& free = freeSlots();
  uint32_t index;
  if (!free.empty()) {
    index = free.back();
    free.pop_back();
  } else {
    if (all.size() >= static_cast<size_t>(kIndex)) throw Failure("out_of_memory", "2^24 live tensors: a leak");
    index = all.size();
    all.emplace_back();
  }
  all[index].tensor = std::move(t);
  live++;
  return index + all[index].generation * kIndex;
}
at::Tensor& slot(double handle) {
  if (Slot* s = find(handle)) return s->tensor;
  throw Failure("tensor_stale", "a tensor that was already disposed was used");
}
bool alive(double handle) { return find(handle) != nullptr; }
bool drop(double handle) {
  Slot* s = find(handle);
  if (!s) return false;
  s->tensor.reset();
  live--;
  if (++s->generation < kLastGeneration) freeSlots().push_back(s - slots().data());  // else the slot is retired
  return true;
}
size_t liveSlots() { return live; }

at::Device parseDevice(const std::string& name) { return at::Device(name); }
at::ScalarType parseDtype(const std::string& name) {
  auto it = dtypes().find(name);
  if (it == dtypes().end()) throw Failure("op_arguments", "unknown dtype \"" + name + "\"");
  return it->second;
}
std::string describe(const at::Tensor& t) {
  std::ostringstream s;
  const char* name = c10::toString(t.scalar_type());
  for (auto& [k, v] : dtypes())
    if (v == t.scalar_type()) name = k.c_str();
  s << name << "[";
  for (int64_t i = 0; i < t.dim(); i++) s << (i ? "," : "") << t.size(i);
  s << "]";
  if (!t.device().is_cpu()) s << "@" << t.device();
  return s.str();
}

void registerTensor(napi_env env, napi_value e) {
  define(env, e, "setErrorClass", guarded<SetErrorClass>);
  define(env, e, "free", guarded<Free>);
  define(env, e, "freeMany", guarded<FreeMany>);
  define(env, e, "alive", guarded<Alive>);
  define(env, e, "liveTensors", guarded<Live>);
  define(env, e, "meta", guarded<Meta>);
  define(env, e, "strides", guarded<Strides>);
  define(env, e, "version", guarded<Version>);
  define(env, e, "dtypeCode", guarded<DtypeCode>);
  define(env, e, "item", guarded<Item>);
  define(env, e, "read", guarded<Read>);
  define(env, e, "fromBytes", guarded<FromBytes>);
}

}  // namespace waver
