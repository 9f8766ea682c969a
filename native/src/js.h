// Small readers and writers of N-API values; every reader throws Failure on a wrong type.
#pragma once
#include "error.h"
#include <cstdint>
#include <string>
#include <vector>

namespace waver {

constexpr size_t kMaxArgs = 40;  // aten::_fused_adamw_ and convolution_backward have under 20

struct Args {
  napi_value v[kMaxArgs];
  size_t n = kMaxArgs;
  Args(napi_env env, napi_callback_info info) {
    if (napi_get_cb_info(env, info, &n, v, nullptr, nullptr) != napi_ok || n > kMaxArgs)
      throw Failure("op_arguments", "too many arguments");
  }
};

inline double num(napi_env env, napi_value v) {
  double d;
  if (napi_get_value_double(env, v, &d) != napi_ok) throw Failure("op_arguments", "expected a number");
  return d;
}
inline bool flag(napi_env env, napi_value v) {
  bool b;
  if (napi_get_value_bool(env, v, &b) != napi_ok) throw Failure("op_arguments", "expected a boolean");
  return b;
}
inline std::string str(napi_env env, napi_value v) {
  size_t n = 0;
  if (napi_get_value_string_utf8(env, v, nullptr, 0, &n) != napi_ok) throw Failure("op_arguments", "expected a string");
  std::string s(n, '\0');
  napi_get_value_string_utf8(env, v, s.data(), n + 1, &n);
  return s;
}
inline napi_valuetype type(napi_env env, napi_value v) {
  napi_valuetype t;
  napi_typeof(env, v, &t);
  return t;
}
inline bool missing(napi_env env, napi_value v) {
  auto t = type(env, v);
  return t == napi_undefined || t == napi_null;
}
inline uint32_t length(napi_env env, napi_value v) {
  uint32_t n;
  if (napi_get_array_length(env, v, &n) != napi_ok) throw Failure("op_arguments", "expected an array");
  return n;
}
inline napi_value element(napi_env env, napi_value v, uint32_t i) {
  napi_value r;
  if (napi_get_element(env, v, i, &r) != napi_ok) throw Failure("op_arguments", "expected an array");
  return r;
}
inline std::vector<int64_t> ints(napi_env env, napi_value v) {
  std::vector<int64_t> r(length(env, v));
  for (uint32_t i = 0; i < r.size(); i++) r[i] = static_cast<int64_t>(num(env, element(env, v, i)));
  return r;
}
struct Bytes {
  uint8_t* data = nullptr;
  size_t size = 0;
};
// Any typed array, as bytes.
inline Bytes bytes(napi_env env, napi_value v) {
  napi_typedarray_type t;
  size_t n = 0, off = 0;
  void* p = nullptr;
  napi_value buf;
  if (napi_get_typedarray_info(env, v, &t, &n, &p, &buf, &off) != napi_ok)
    throw Failure("op_arguments", "expected a typed array");
  size_t unit = 1;
  switch (t) {
    case napi_int16_array: case napi_uint16_array: unit = 2; break;
    case napi_int32_array: case napi_uint32_array: case napi_float32_array: unit = 4; break;
    case napi_float64_array: case napi_bigint64_array: case napi_biguint64_array: unit = 8; break;
    default: break;
  }
  return {static_cast<uint8_t*>(p), n * unit};
}

inline napi_value mk(napi_env env, double d) {
  napi_value r;
  napi_create_double(env, d, &r);
  return r;
}
inline napi_value mkBool(napi_env env, bool b) {
  napi_value r;
  napi_get_boolean(env, b, &r);
  return r;
}
inline napi_value mkStr(napi_env env, const std::string& s) {
  napi_value r;
  napi_create_string_utf8(env, s.data(), s.size(), &r);
  return r;
}
inline napi_value mkNull(napi_env env) {
  napi_value r;
  napi_get_null(env, &r);
  return r;
}
inline napi_value mkArray(napi_env env, size_t n) {
  napi_value r;
  napi_create_array_with_length(env, n, &r);
  return r;
}
inline void define(napi_env env, napi_value exports, const char* name, napi_callback f) {
  napi_value v;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, f, nullptr, &v);
  napi_set_named_property(env, exports, name, v);
}

}  // namespace waver
