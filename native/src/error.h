// Errors of the addon: a stable code and a sentence; `guarded` turns every C++ exception into a JS EngineError.
#pragma once
#include <node_api.h>
#include <c10/util/Exception.h>
#include <stdexcept>
#include <string>

namespace waver {

struct Failure : std::runtime_error {
  std::string code;
  Failure(std::string code, const std::string& message) : std::runtime_error(message), code(std::move(code)) {}
};

// Throws the EngineError class that TypeScript registered (a plain Error before that).
void throwJs(napi_env env, const std::string& code, const std::string& message);

using Body = napi_value (*)(napi_env, napi_callback_info);

template <Body F>
napi_value guarded(napi_env env, napi_callback_info info) {
  try {
    return F(env, info);
  } catch (const Failure& e) {
    throwJs(env, e.code, e.what());
  } catch (const c10::OutOfMemoryError& e) {
    throwJs(env, "out_of_memory", e.what_without_backtrace());
  } catch (const c10::Error& e) {
    throwJs(env, "op_failed", e.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    throwJs(env, "out_of_memory", "the machine has no memory left for this tensor");
  } catch (const std::exception& e) {
    throwJs(env, "op_failed", e.what());
  } catch (...) {
    throwJs(env, "op_failed", "an exception of unknown type");
  }
  return nullptr;
}

}  // namespace waver
