// Streams of an accelerator and marks in them, through c10's interface for all devices. A CPU has one order of work: there
// every function here does nothing.
#include "slots.h"
#include "js.h"
#include "table.h"
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <optional>
#include <vector>

namespace waver {
namespace {

using Guard = c10::impl::VirtualGuardImpl;

// Never destroyed: a driver may be gone before the process is.
Table<c10::Stream>& streams() {
  static auto* t = new Table<c10::Stream>();
  return *t;
}
// Without an event on a CPU.
using Mark = std::optional<c10::Event>;
Table<Mark>& marks() {
  static auto* t = new Table<Mark>();
  return *t;
}
// Of the streams that were left for another, the last one at the end.
std::vector<c10::Stream>& left() {
  static auto* v = new std::vector<c10::Stream>();
  return *v;
}

// openStream(device) -> id: work in it runs beside that of other streams
napi_value OpenStream(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto device = parseDevice(str(env, a.v[0]));
  return mk(env, streams().add(Guard(device.type()).getNewStream(device)));
}
napi_value CloseStream(napi_env env, napi_callback_info info) {  // streams come from the device's pool and stay in it
  Args a(env, info);
  streams().items.erase(static_cast<uint32_t>(num(env, a.v[0])));
  return nullptr;
}
napi_value EnterStream(napi_env env, napi_callback_info info) {  // operators that follow run in it
  Args a(env, info);
  auto stream = streams().at(num(env, a.v[0]), "the stream");
  left().push_back(Guard(stream.device_type()).exchangeStream(stream));
  return nullptr;
}
napi_value LeaveStream(napi_env, napi_callback_info) {
  if (left().empty()) throw Failure("op_arguments", "no stream was entered");
  auto before = left().back();
  left().pop_back();
  Guard(before.device_type()).exchangeStream(before);
  return nullptr;
}
// mark(device) -> id: all that the device's current stream was given so far
napi_value SetMark(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto device = parseDevice(str(env, a.v[0]));
  Mark mark;
  if (!device.is_cpu()) {
    mark.emplace(device.type());
    mark->record(Guard(device.type()).getStream(device));
  }
  return mk(env, marks().add(std::move(mark)));
}
napi_value AwaitMark(napi_env env, napi_callback_info info) {  // the current stream goes on when that is done; nobody blocks here
  Args a(env, info);
  auto& mark = marks().at(num(env, a.v[0]), "the mark");
  if (mark) mark->block(Guard(mark->device_type()).getStream(mark->device()));
  return nullptr;
}
napi_value CloseMark(napi_env env, napi_callback_info info) {
  Args a(env, info);
  marks().items.erase(static_cast<uint32_t>(num(env, a.v[0])));
  return nullptr;
}

}  // namespace

void registerStream(napi_env env, napi_value e) {
  define(env, e, "openStream", guarded<OpenStream>);
  define(env, e, "closeStream", guarded<CloseStream>);
  define(env, e, "enterStream", guarded<EnterStream>);
  define(env, e, "leaveStream", guarded<LeaveStream>);
  define(env, e, "mark", guarded<SetMark>);
  define(env, e, "awaitMark", guarded<AwaitMark>);
  define(env, e, "closeMark", guarded<CloseMark>);
}

}  // namespace waver
