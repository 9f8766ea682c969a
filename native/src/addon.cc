// Registers the functions of the addon; what they do is in the other files.
#include "js.h"

namespace waver {
void registerTensor(napi_env, napi_value);
void registerOps(napi_env, napi_value);
void registerAutograd(napi_env, napi_value);
void registerIo(napi_env, napi_value);
void registerMemory(napi_env, napi_value);
void registerRuntime(napi_env, napi_value);
void registerDist(napi_env, napi_value);
void registerStream(napi_env, napi_value);
void registerGraph(napi_env, napi_value);
}  // namespace waver

NAPI_MODULE_INIT() {
  waver::registerMemory(env, exports);
  waver::registerTensor(env, exports);
  waver::registerOps(env, exports);
  waver::registerAutograd(env, exports);
  waver::registerIo(env, exports);
  waver::registerRuntime(env, exports);
  waver::registerDist(env, exports);
  waver::registerStream(env, exports);
  waver::registerGraph(env, exports);
  return exports;
}
