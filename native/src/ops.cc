// One boxed call reaches every operator: argument kinds are cached per operator, one stack is reused.
#include "slots.h"
#include "js.h"
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/jit_type.h>
#include <deque>
#include <sstream>

namespace waver {
namespace {
using c10::IValue;
using torch::jit::Stack;

enum class Kind : uint8_t { Tensor, Int, Float, Bool, Number, Str, Device, Dtype, Layout, MemoryFormat, Generator,
                            Tensors, OptTensors, Ints, Floats, Bools, Numbers, OptNumbers, Strs, Any, Other };
struct Param {
  std::string name;
  Kind kind;
  bool optional, hasDefault;
  int32_t fixed;  // int[2] has 2: one number stands for both
  IValue fallback;
};
struct Operator {
  c10::OperatorHandle handle;
  std::string name;
  std::vector<Param> params;
  std::vector<int> alias;  // per return: the argument that it is (in-place and out= forms), or -1
};
std::deque<Operator>& operators() {
  static auto* o = new std::deque<Operator>();
  return *o;
}

Kind kindOf(const c10::TypePtr& real, const c10::TypePtr& fake) {
  using K = c10::TypeKind;
  switch (real->kind()) {
    case K::TensorType: return Kind::Tensor;
    case K::IntType: case K::SymIntType: return Kind::Int;
    case K::FloatType: case K::SymFloatType: return Kind::Float;
    case K::BoolType: case K::SymBoolType: return Kind::Bool;
    case K::NumberType: return Kind::Number;
    case K::StringType: return Kind::Str;
    case K::DeviceObjType: return Kind::Device;
    case K::ScalarTypeType: return Kind::Dtype;
    case K::LayoutType: return Kind::Layout;
    case K::MemoryFormatType: return Kind::MemoryFormat;
    case K::GeneratorType: return Kind::Generator;
    case K::AnyType: return Kind::Any;
    case K::ListType: {
      auto el = real->castRaw<c10::ListType>()->getElementType();
      switch (el->kind()) {
        case K::TensorType: return Kind::Tensors;
        case K::OptionalType:
          return el->castRaw<c10::OptionalType>()->getElementType()->kind() == K::TensorType ? Kind::OptTensors : Kind::OptNumbers;
        case K::IntType: case K::SymIntType: return Kind::Ints;
        case K::FloatType: return Kind::Floats;
        case K::BoolType: return Kind::Bools;
        case K::NumberType: return Kind::Numbers;
        case K::StringType: return Kind::Strs;
        default: return Kind::Other;
      }
    }
    default: return Kind::Other;
  }
}
c10::TypePtr unwrap(const c10::TypePtr& t, bool* optional) {
  if (t->kind() != c10::TypeKind::OptionalType) return t;
  *optional = true;
  return t->castRaw<c10::OptionalType>()->getElementType();
}
char letter(Kind k) {
  return k == Kind::Tensor ? 'T' : k == Kind::Tensors || k == Kind::OptTensors ? 'L' : k == Kind::Generator ? 'G' : '.';
}

IValue number(double d) {
  // beyond 2^53 (and for infinities) a double is meant
  if (d >= -9007199254740992.0 && d <= 9007199254740992.0 && d == static_cast<double>(static_cast<int64_t>(d)))
    return IValue(static_cast<int64_t>(d));
  return IValue(d);
}
IValue number(napi_env env, napi_value v) {
  auto t = type(env, v);
  if (t == napi_boolean) return IValue(flag(env, v));
  if (t == napi_object) {  // scalar(x): a forced double
    napi_value inner;
    napi_get_named_property(env, v, "value", &inner);
    return IValue(num(env, inner));
  }
  return number(num(env, v));
}
int64_t integer(napi_env env, napi_value v) {
  double d = num(env, v);
  if (!(d >= -9.2e18 && d <= 9.2e18) || d != static_cast<double>(static_cast<int64_t>(d)))
    throw Failure("op_arguments", "expected an integer, got " + std::to_string(d));
  return static_cast<int64_t>(d);
}
int64_t memoryFormat(const std::string& s) {
  if (s == "contiguous_format") return static_cast<int64_t>(at::MemoryFormat::Contiguous);
  if (s == "preserve_format") return static_cast<int64_t>(at::MemoryFormat::Preserve);
  if (s == "channels_last") return static_cast<int64_t>(at::MemoryFormat::ChannelsLast);
  if (s == "channels_last_3d") return static_cast<int64_t>(at::MemoryFormat::ChannelsLast3d);
  throw Failure("op_arguments", "unknown memory format \"" + s + "\"");
}

IValue convert(napi_env env, const Param& p, napi_value v) {
  switch (p.kind) {
    case Kind::Tensor: return IValue(slot(num(env, v)));
    case Kind::Int: return IValue(integer(env, v));
    case Kind::Float: return IValue(num(env, v));
    case Kind::Bool: return IValue(flag(env, v));
    case Kind::Number: return number(env, v);
    case Kind::Str: return IValue(str(env, v));
    case Kind::Device: return IValue(parseDevice(str(env, v)));
    case Kind::Dtype:
      if (type(env, v) == napi_string) return IValue(static_cast<int64_t>(parseDtype(str(env, v))));
      return IValue(integer(env, v));
    case Kind::Layout:
      if (type(env, v) == napi_string) return IValue(static_cast<int64_t>(at::kStrided));
      return IValue(integer(env, v));
    case Kind::MemoryFormat:
      if (type(env, v) == napi_string) return IValue(memoryFormat(str(env, v)));
      return IValue(integer(env, v));
    case Kind::Generator: return IValue(generatorSlot(num(env, v)));
    case Kind::Tensors: {
      c10::List<at::Tensor> l;
      uint32_t n = length(env, v);
      l.reserve(n);
      for (uint32_t i = 0; i < n; i++) l.push_back(slot(num(env, element(env, v, i))));
      return IValue(std::move(l));
    }
    case Kind::OptTensors: {
      c10::List<std::optional<at::Tensor>> l;
      uint32_t n = length(env, v);
      for (uint32_t i = 0; i < n; i++) {
        auto el = element(env, v, i);
        l.push_back(missing(env, el) ? std::optional<at::Tensor>() : std::optional<at::Tensor>(slot(num(env, el))));
      }
      return IValue(std::move(l));
    }
    case Kind::Ints: {
      c10::List<int64_t> l;
      if (type(env, v) == napi_number) {
        int64_t x = integer(env, v);
        for (int32_t i = 0; i < std::max(1, p.fixed); i++) l.push_back(x);
        return IValue(std::move(l));
      }
      uint32_t n = length(env, v);
      l.reserve(n);
      for (uint32_t i = 0; i < n; i++) l.push_back(integer(env, element(env, v, i)));
      return IValue(std::move(l));
    }
    case Kind::Floats: {
      c10::List<double> l;
      uint32_t n = length(env, v);
      for (uint32_t i = 0; i < n; i++) l.push_back(num(env, element(env, v, i)));
      return IValue(std::move(l));
    }
    case Kind::Bools: {
      c10::List<bool> l;
      uint32_t n = length(env, v);
      for (uint32_t i = 0; i < n; i++) l.push_back(flag(env, element(env, v, i)));
      return IValue(std::move(l));
    }
    case Kind::Numbers: {
      c10::impl::GenericList l(c10::NumberType::get());
      uint32_t n = length(env, v);
      for (uint32_t i = 0; i < n; i++) l.push_back(number(env, element(env, v, i)));
      return IValue(std::move(l));
    }
    case Kind::OptNumbers: {
      c10::impl::GenericList l(c10::OptionalType::create(c10::NumberType::get()));
      uint32_t n = length(env, v);
      for (uint32_t i = 0; i < n; i++) {
        auto el = element(env, v, i);
        l.push_back(missing(env, el) ? IValue() : number(env, el));
      }
      return IValue(std::move(l));
    }
    case Kind::Strs: {
      c10::List<std::string> l;
      uint32_t n = length(env, v);
      for (uint32_t i = 0; i < n; i++) l.push_back(str(env, element(env, v, i)));
      return IValue(std::move(l));
    }
    case Kind::Any:
      if (type(env, v) == napi_string) return IValue(str(env, v));
      return number(env, v);
    default: throw Failure("op_arguments", "this argument type is not supported");
  }
}

napi_value toJs(napi_env env, IValue& v) {
  if (v.isTensor()) return mk(env, put(std::move(v).toTensor()));
  if (v.isInt()) return mk(env, static_cast<double>(v.toInt()));
  if (v.isDouble()) return mk(env, v.toDouble());
  if (v.isBool()) return mkBool(env, v.toBool());
  if (v.isString()) return mkStr(env, v.toStringRef());
  if (v.isTensorList()) {
    auto l = v.toTensorVector();
    napi_value a = mkArray(env, l.size());
    for (size_t i = 0; i < l.size(); i++) napi_set_element(env, a, i, mk(env, put(std::move(l[i]))));
    return a;
  }
  if (v.isList()) {
    auto l = v.toListRef();
    napi_value a = mkArray(env, l.size());
    for (size_t i = 0; i < l.size(); i++) {
      IValue el = l[i];
      napi_set_element(env, a, i, toJs(env, el));
    }
    return a;
  }
  return mkNull(env);
}

// findOp(name, overload) -> { id, args, names, returns, alias } or null when there is none
napi_value FindOp(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto name = str(env, a.v[0]), overload = str(env, a.v[1]);
  auto found = c10::Dispatcher::singleton().findSchema({name, overload});
  if (!found) return mkNull(env);
  Operator op{*found, overload.empty() ? name : name + "." + overload, {}, {}};
  const auto& schema = found->schema();
  std::string args, returns;
  napi_value names = mkArray(env, schema.arguments().size());
  for (const auto& s : schema.arguments()) {
    bool optional = false, ignored = false;
    auto real = unwrap(s.real_type(), &optional), fake = unwrap(s.type(), &ignored);
    Kind kind = kindOf(real, fake);
    args += letter(kind);
    napi_set_element(env, names, op.params.size(), mkStr(env, s.name()));
    op.params.push_back({s.name(), kind, optional, s.default_value().has_value(), s.N() ? *s.N() : 0,
                         s.default_value() ? *s.default_value() : IValue()});
  }
  napi_value alias = mkArray(env, schema.returns().size());
  for (const auto& r : schema.returns()) {
    bool optional = false;
    returns += letter(kindOf(unwrap(r.real_type(), &optional), r.type()));
    int from = -1;
    if (r.alias_info() && r.alias_info()->isWrite())
      for (size_t i = 0; i < schema.arguments().size(); i++) {
        const auto* info = schema.arguments()[i].alias_info();
        if (info && info->isWrite() && info->beforeSets() == r.alias_info()->beforeSets()) from = static_cast<int>(i);
      }
    if (returns.back() != 'T') from = -1;
    napi_set_element(env, alias, op.alias.size(), mk(env, from));
    op.alias.push_back(from);
  }
  operators().push_back(std::move(op));
  napi_value o;
  napi_create_object(env, &o);
  napi_set_named_property(env, o, "id", mk(env, static_cast<double>(operators().size() - 1)));
  napi_set_named_property(env, o, "args", mkStr(env, args));
  napi_set_named_property(env, o, "names", names);
  napi_set_named_property(env, o, "returns", mkStr(env, returns));
  napi_set_named_property(env, o, "alias", alias);
  return o;
}

std::string withArguments(napi_env env, const Operator& op, const Args& a, const std::string& message) {
  std::ostringstream s;
  s << op.name << ": " << message;
  bool first = true;
  for (size_t i = 0; i < op.params.size() && i + 1 < a.n; i++) {
    if (op.params[i].kind != Kind::Tensor || type(env, a.v[i + 1]) != napi_number) continue;
    double h = num(env, a.v[i + 1]);
    s << (first ? " (" : ", ") << op.params[i].name << " " << (alive(h) ? describe(slot(h)) : std::string("disposed"));
    first = false;
  }
  if (!first) s << ")";
  return s.str();
}

// call(op, ...args): handles in, handles out; a return that is an argument (in-place forms) comes back as 0
napi_value Call(napi_env env, napi_callback_info info) {
  static Stack reused;
  Args a(env, info);
  auto id = static_cast<size_t>(num(env, a.v[0]));
  if (id >= operators().size()) throw Failure("op_arguments", "unknown operator");
  Operator& op = operators()[id];
  Stack stack;
  stack.swap(reused);
  stack.clear();
  const char* where = nullptr;
  try {
    if (a.n - 1 > op.params.size())
      throw Failure("op_arguments", std::to_string(a.n - 1) + " arguments given, at most " + std::to_string(op.params.size()) + " known");
    for (size_t i = 0; i < op.params.size(); i++) {
      const Param& p = op.params[i];
      where = p.name.c_str();
      napi_valuetype t = i + 1 < a.n ? type(env, a.v[i + 1]) : napi_undefined;
      if (t == napi_undefined) {
        if (p.hasDefault) stack.push_back(p.fallback);
        else if (p.optional) stack.emplace_back();
        else throw Failure("op_arguments", "is missing");
      } else if (t == napi_null) {
        if (!p.optional) throw Failure("op_arguments", "must not be null");
        stack.emplace_back();
      } else {
        stack.push_back(convert(env, p, a.v[i + 1]));
      }
    }
    where = nullptr;
    op.handle.callBoxed(&stack);
  } catch (const Failure& e) {
    throw Failure(e.code, withArguments(env, op, a, (where ? std::string("argument ") + where + " " : std::string()) + e.what()));
  } catch (const c10::OutOfMemoryError& e) {
    throw Failure("out_of_memory", withArguments(env, op, a, e.what_without_backtrace()));
  } catch (const c10::Error& e) {
    throw Failure("op_failed", withArguments(env, op, a, e.what_without_backtrace()));
  } catch (const std::exception& e) {
    throw Failure("op_failed", withArguments(env, op, a, e.what()));
  }
  napi_value result;
  if (op.alias.size() == 1) {
    result = op.alias[0] >= 0 ? mk(env, 0) : toJs(env, stack[0]);
  } else if (op.alias.empty()) {
    result = mkNull(env);
  } else {
    result = mkArray(env, stack.size());
    for (size_t i = 0; i < stack.size(); i++)
      napi_set_element(env, result, i, op.alias[i] >= 0 ? mk(env, 0) : toJs(env, stack[i]));
  }
  stack.clear();
  stack.swap(reused);
  return result;
}

// ---- The short way: arguments as doubles in one shared buffer, called through bun:ffi. It serves tensors, numbers,
// booleans, lists of them and what is left out; whatever else, and every failure, goes the long way above, which says why.
double* shared = nullptr;
size_t sharedLength = 0;
enum Tag { kLeftOut, kNull, kNumber, kBool, kTensor, kList };  // call.ts writes them

struct LongWay {};
struct Reader {
  const double* at;
  double next() { return *at++; }
  int64_t whole(double d) {
    if (d != static_cast<double>(static_cast<int64_t>(d))) throw LongWay();
    return static_cast<int64_t>(d);
  }
  IValue list(const Param& p) {
    auto n = static_cast<size_t>(next());
    switch (p.kind) {
      case Kind::Ints: {
        c10::List<int64_t> l;
        l.reserve(n);
        for (size_t i = 0; i < n; i++) l.push_back(whole(next()));
        return IValue(std::move(l));
      }
      case Kind::Tensors: {
        c10::List<at::Tensor> l;
        l.reserve(n);
        for (size_t i = 0; i < n; i++) l.push_back(slot(next()));
        return IValue(std::move(l));
      }
      default: throw LongWay();
    }
  }
  IValue argument(const Param& p) {
    switch (static_cast<Tag>(next())) {
      case kLeftOut:
        if (p.hasDefault) return p.fallback;
        if (!p.optional) throw LongWay();
        return IValue();
      case kNull:
        if (!p.optional) throw LongWay();
        return IValue();
      case kTensor:
        if (p.kind != Kind::Tensor) throw LongWay();
        return IValue(slot(next()));
      case kBool:
        if (p.kind != Kind::Bool && p.kind != Kind::Number) throw LongWay();
        return IValue(next() != 0);
      case kNumber:
        switch (p.kind) {
          case Kind::Int: case Kind::Dtype: return IValue(whole(next()));
          case Kind::Float: return IValue(next());
          case Kind::Number: return number(next());
          case Kind::Ints: {
            c10::List<int64_t> l;
            int64_t x = whole(next());
            for (int32_t i = 0; i < std::max(1, p.fixed); i++) l.push_back(x);
            return IValue(std::move(l));
          }
          default: throw LongWay();
        }
      case kList: return list(p);
    }
    throw LongWay();
  }
};

napi_value ShareBuffer(napi_env env, napi_callback_info info) {  // shareBuffer(Float64Array): it must stay alive
  Args a(env, info);
  Bytes b = bytes(env, a.v[0]);
  shared = reinterpret_cast<double*>(b.data);
  sharedLength = b.size / 8;
  return nullptr;
}

}  // namespace

void registerOps(napi_env env, napi_value e) {
  define(env, e, "findOp", guarded<FindOp>);
  define(env, e, "call", guarded<Call>);
  define(env, e, "shareBuffer", guarded<ShareBuffer>);
}

// Handles of the returned tensors into the buffer (0 for one that is an argument); their number, or -1: take the long way.
extern "C" __attribute__((visibility("default"))) int32_t waver_call(int32_t id, int32_t given) {
  static Stack reused;
  Stack stack;
  stack.swap(reused);
  try {
    if (static_cast<size_t>(id) >= operators().size() || !shared) return -1;
    Operator& op = operators()[static_cast<size_t>(id)];
    Reader in{shared};
    auto n = static_cast<int32_t>(op.params.size());
    for (int32_t i = 0; i < n; i++) {
      const Param& p = op.params[static_cast<size_t>(i)];
      if (i < given) stack.push_back(in.argument(p));
      else if (p.hasDefault) stack.push_back(p.fallback);
      else if (p.optional) stack.emplace_back();
      else throw LongWay();
    }
    op.handle.callBoxed(&stack);
    size_t count = stack.size();
    for (size_t i = 0; i < count; i++) shared[i] = op.alias[i] >= 0 ? 0 : put(std::move(stack[i]).toTensor());
    stack.clear();
    stack.swap(reused);
    return static_cast<int32_t>(count);
  } catch (...) {
    return -1;
  }
}

}  // namespace waver
