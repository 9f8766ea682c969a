// What c10d's Gloo header names of Gloo. libtorch's wheel has Gloo inside and ships none of its headers; c10d passes only
// pointers across, so these declarations are all that is needed. Layouts are never used here.
#pragma once
#include <chrono>
#include <memory>

namespace gloo {
namespace transport {
class Device;
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer();
};
}  // namespace transport
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
}  // namespace gloo
