// Native objects that JavaScript names by a number.
#pragma once
#include "error.h"
#include <cstdint>
#include <string>
#include <unordered_map>

namespace waver {

template <class T>
struct Table {
  std::unordered_map<uint32_t, T> items;
  uint32_t next = 1;
  uint32_t add(T item) {
    items.emplace(next, std::move(item));
    return next++;
  }
  T& at(double id, const char* what) {
    auto it = items.find(static_cast<uint32_t>(id));
    if (it == items.end()) throw Failure("tensor_stale", std::string(what) + " was closed already");
    return it->second;
  }
};

}  // namespace waver
