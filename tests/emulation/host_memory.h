// Address spaces as C++ types: device pointers know their buffer, threadgroup pointers report every access.
// A pointer of one space does not convert to the other, nor to a plain pointer, as in the Metal shading language.

namespace kv {
namespace host {

// One buffer of the caller. `written` counts writes per byte of an output, and is null for an input.
struct Region {
  const char* name;
  char* begin;
  size_t bytes;
  unsigned char* written;
};

[[noreturn]] inline void fail(const char* what, const Region* region) {
  throw Failure(std::string(what) + ": " + (region ? region->name : "?"));
}

template <typename T>
class DeviceCell {
 public:
  DeviceCell(T* at, const Region* region) : at_(at), region_(region) {}
  void operator=(T value) const {
    unsigned char* marks = region_->written + (reinterpret_cast<char*>(at_) - region_->begin);
    for (size_t i = 0; i < sizeof(T); ++i)
      if (marks[i]++) fail("an element is written twice", region_);
    *at_ = value;
  }

 private:
  T* at_;
  const Region* region_;
};

template <typename T>
class DevicePointer {
 public:
  DevicePointer() : at_(nullptr), region_(nullptr) {}
  DevicePointer(T* at, const Region* region) : at_(at), region_(region) {}

  DevicePointer operator+(int64_t n) const { return DevicePointer(at_ + n, region_); }
  DeviceCell<T> operator[](int64_t i) const { return DeviceCell<T>(check(i, 1), region_); }
  T* check(int64_t first, int64_t count, size_t alignment = sizeof(T)) const {
    T* p = at_ + first;
    const char* byte = reinterpret_cast<const char*>(p);
    if (byte < region_->begin || byte + count * sizeof(T) > region_->begin + region_->bytes)
      fail("device memory is touched outside its buffer", region_);
    if (reinterpret_cast<uintptr_t>(byte) % alignment) fail("a load is not aligned", region_);
    return p;
  }
  const Region* region() const { return region_; }
  T* raw() const { return at_; }

 private:
  T* at_;
  const Region* region_;
};

template <typename T>
class DevicePointer<const T> {
 public:
  DevicePointer() : at_(nullptr), region_(nullptr) {}
  DevicePointer(const T* at, const Region* region) : at_(at), region_(region) {}

  DevicePointer operator+(int64_t n) const { return DevicePointer(at_ + n, region_); }
  const T& operator[](int64_t i) const { return *check(i, 1); }
  const T* check(int64_t first, int64_t count, size_t alignment = sizeof(T)) const {
    const T* p = at_ + first;
    const char* byte = reinterpret_cast<const char*>(p);
    if (byte < region_->begin || byte + count * sizeof(T) > region_->begin + region_->bytes)
      fail("device memory is touched outside its buffer", region_);
    if (reinterpret_cast<uintptr_t>(byte) % alignment) fail("a load is not aligned", region_);
    return p;
  }
  const Region* region() const { return region_; }
  const T* raw() const { return at_; }

 private:
  const T* at_;
  const Region* region_;
};

template <typename T>
class GroupCell {
 public:
  explicit GroupCell(T* at) : at_(at) {}
  operator T() const {
    machine()->reads(at_, sizeof(T));
    return *at_;
  }
  void operator=(T value) const {
    machine()->writes(at_, sizeof(T));
    *at_ = value;
  }
  void operator=(const GroupCell& other) const { *this = static_cast<T>(other); }

 private:
  T* at_;
};

template <typename T>
class GroupPointer {
 public:
  GroupPointer() : at_(nullptr) {}
  explicit GroupPointer(T* at) : at_(at) {}
  GroupPointer operator+(int64_t n) const { return GroupPointer(at_ + n); }
  GroupCell<T> operator[](int64_t i) const { return GroupCell<T>(at_ + i); }

 private:
  T* at_;
};

template <typename T>
GroupPointer<T> shared_array(size_t count) {
  return GroupPointer<T>(static_cast<T*>(machine()->shared(count * sizeof(T))));
}

// What a generated entry point receives: buffers by position, inputs first; their shapes and strides in elements.
struct Buffer {
  const char* name;
  void* data;
  int64_t bytes;
  const int* shape;
  const int64_t* strides;
  unsigned char* written;
};
struct Arguments {
  std::vector<Region> regions;
  const Buffer* buffers;

  template <typename T>
  DevicePointer<T> pointer(int i) const {
    return DevicePointer<T>(reinterpret_cast<T*>(regions[i].begin), &regions[i]);
  }
};

inline int launch(void (*kernel)(void*), const Buffer* buffers, int count, const unsigned* groups, int threads,
                  unsigned seed, char* message, size_t room) {
  try {
    Arguments arguments;
    arguments.buffers = buffers;
    for (int i = 0; i < count; ++i)
      arguments.regions.push_back(Region{buffers[i].name, static_cast<char*>(buffers[i].data),
                                         static_cast<size_t>(buffers[i].bytes), buffers[i].written});
    if (threads % SIMD) throw Failure("a threadgroup is not a multiple of 32 threads");
    Machine host(threads, seed);
    machine() = &host;
    for (unsigned z = 0; z < groups[2]; ++z)
      for (unsigned y = 0; y < groups[1]; ++y)
        for (unsigned x = 0; x < groups[0]; ++x) {
          host.group = Index3{x, y, z};
          host.run(kernel, &arguments);
        }
    machine() = nullptr;
    return 0;
  } catch (const std::exception& error) {
    machine() = nullptr;
    snprintf(message, room, "%s", error.what());
    return 1;
  }
}

}  // namespace host
}  // namespace kv
