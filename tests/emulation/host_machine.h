// A GPU's threadgroup on one CPU thread: every lane is a fiber that runs until it meets the others.
// It schedules the lanes, runs barriers and checks who may touch threadgroup memory when.
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace kv {
namespace host {

constexpr int SIMD = 32;
constexpr size_t GROUP_MEMORY = 32 * 1024;
constexpr size_t STACK = 256 * 1024;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Index3 {
  unsigned x, y, z;
};

// What one byte of threadgroup memory has seen since the last barrier: a write and a read by different lanes with no
// barrier between them is an error, whichever the scheduler happened to run first.
struct Cell {
  int writer = -1, reader = -1;  // thread, -1 nobody, -2 several
  int reader_simd = -1;          // the simdgroup of all readers, -2 several
  unsigned write_group = 0, write_simd = 0, read_group = 0, read_simd = 0;
};

enum class State { ready, simd, group, done };
using Collective = void (*)(void**);

struct Fiber {
  ucontext_t start;
  jmp_buf resume;
  bool started = false;
  State state = State::ready;
  Collective collective = nullptr;
  void* operand = nullptr;
  unsigned group_epoch = 0, simd_epoch = 0;
  size_t shared_used = 0;
};

class Machine {
 public:
  using Kernel = void (*)(void*);

  Machine(int threads, unsigned seed) : fibers_(threads), random_(seed * 2654435761u + 12345u) {
    stacks_ = static_cast<char*>(mmap(nullptr, STACK * threads, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks_ == MAP_FAILED) throw Failure("no memory for the fibers' stacks");
  }
  ~Machine() { munmap(stacks_, STACK * fibers_.size()); }

  Index3 group{0, 0, 0};

  int thread() const { return current_; }
  int lane() const { return current_ % SIMD; }
  int simdgroup() const { return current_ / SIMD; }

  // Runs one threadgroup to its end.
  void run(Kernel kernel, void* arguments) {
    kernel_ = kernel;
    arguments_ = arguments;
    memset(memory_, 0xff, sizeof memory_);  // NaN in every float format
    cells_.assign(GROUP_MEMORY, Cell());
    for (Fiber& fiber : fibers_) fiber = Fiber();
    failure_.clear();
    for (;;) {
      bool moved = false;
      const unsigned offset = next_random() % fibers_.size();
      const bool backwards = next_random() & 1;
      for (size_t i = 0; i < fibers_.size() && failure_.empty(); ++i) {
        const size_t at = (offset + (backwards ? fibers_.size() - 1 - i : i)) % fibers_.size();
        if (fibers_[at].state != State::ready) continue;
        step(static_cast<int>(at));
        moved = true;
      }
      if (!failure_.empty()) throw Failure(failure_);
      moved |= meet_simdgroups();
      moved |= meet_group();
      if (all(State::done)) return;
      if (!moved) throw Failure(deadlock());
    }
  }

  // Called by a lane: waits for its simdgroup, whose 32 operands the collective then sees together.
  void meet_simd(Collective collective, void* operand) {
    self().collective = collective;
    self().operand = operand;
    leave(State::simd);
  }
  void meet_simd_barrier() { meet_simd(&simd_barrier, &self()); }
  void meet_group_barrier() { leave(State::group); }

  // Threadgroup memory, handed out in the same order to every lane.
  void* shared(size_t bytes) {
    const size_t at = self().shared_used;
    self().shared_used += (bytes + 15) / 16 * 16;
    if (self().shared_used > GROUP_MEMORY) throw Failure("more than 32 KiB of threadgroup memory");
    return memory_ + at;
  }
  void reads(const void* p, size_t bytes) {
    for (Cell* cell = cell_of(p, bytes); bytes--; ++cell) {
      if (cell->writer == -1) throw Failure("threadgroup memory is read before it was written");
      if (cell->writer != current_ && !ordered(cell->writer / SIMD, cell->write_group, cell->write_simd))
        throw Failure("race: threadgroup memory is read without a barrier after another lane's write");
      const bool fresh = cell->reader == -1 || cell->read_group != self().group_epoch;
      cell->read_simd = fresh || self().simd_epoch > cell->read_simd ? self().simd_epoch : cell->read_simd;
      cell->reader_simd = fresh || cell->reader_simd == simdgroup() ? simdgroup() : -2;
      cell->reader = fresh || cell->reader == current_ ? current_ : -2;
      cell->read_group = self().group_epoch;
    }
  }
  void writes(const void* p, size_t bytes) {
    for (Cell* cell = cell_of(p, bytes); bytes--; ++cell) {
      if (cell->writer != -1 && cell->writer != current_ &&
          !ordered(cell->writer / SIMD, cell->write_group, cell->write_simd))
        throw Failure("race: two lanes write the same threadgroup memory without a barrier");
      if (cell->reader != -1 && cell->reader != current_ &&
          !ordered(cell->reader_simd, cell->read_group, cell->read_simd))
        throw Failure("race: threadgroup memory is overwritten without a barrier after another lane's read");
      cell->writer = current_;
      cell->write_group = self().group_epoch;
      cell->write_simd = self().simd_epoch;
      cell->reader = -1;
    }
  }

 private:
  Fiber& self() { return fibers_[current_]; }
  unsigned next_random() { return (random_ = random_ * 1664525u + 1013904223u) >> 8; }

  bool ordered(int simd, unsigned group_epoch, unsigned simd_epoch) {
    return group_epoch != self().group_epoch || (simd == simdgroup() && simd_epoch < self().simd_epoch);
  }
  Cell* cell_of(const void* p, size_t bytes) {
    const size_t at = static_cast<const char*>(p) - memory_;
    if (at + bytes > self().shared_used) throw Failure("threadgroup memory is touched outside its arrays");
    return &cells_[at];
  }
  bool all(State state) const {
    for (const Fiber& fiber : fibers_)
      if (fiber.state != state) return false;
    return true;
  }

  static void enter(unsigned high, unsigned low) {
    Machine* machine = reinterpret_cast<Machine*>((static_cast<uintptr_t>(high) << 32) | low);
    try {
      machine->kernel_(machine->arguments_);
    } catch (const std::exception& error) {
      if (machine->failure_.empty()) machine->failure_ = error.what();
    }
    machine->leave(State::done);
  }

  void step(int at) {
    current_ = at;
    Fiber& fiber = fibers_[at];
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stacks_ + STACK * at;
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    const uintptr_t self = reinterpret_cast<uintptr_t>(this);
    makecontext(&fiber.start, reinterpret_cast<void (*)()>(enter), 2, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self));
    setcontext(&fiber.start);
  }
  void leave(State state) {
    self().state = state;
    if (_setjmp(self().resume) == 0) _longjmp(scheduler_, 1);
  }

  bool meet_simdgroups() {
    bool moved = false;
    for (size_t first = 0; first < fibers_.size(); first += SIMD) {
      void* operands[SIMD];
      int waiting = 0;
      for (int i = 0; i < SIMD; ++i) {
        const Fiber& fiber = fibers_[first + i];
        if (fiber.state == State::simd && fiber.collective == fibers_[first].collective) ++waiting;
        operands[i] = fiber.operand;
      }
      if (waiting < SIMD) continue;
      fibers_[first].collective(operands);
      for (int i = 0; i < SIMD; ++i) fibers_[first + i].state = State::ready;
      moved = true;
    }
    return moved;
  }
  bool meet_group() {
    if (!all(State::group)) return false;
    for (Fiber& fiber : fibers_) {
      fiber.state = State::ready;
      ++fiber.group_epoch;
      ++fiber.simd_epoch;
    }
    return true;
  }
  static void simd_barrier(void** fibers) {
    for (int i = 0; i < SIMD; ++i) ++static_cast<Fiber*>(fibers[i])->simd_epoch;
  }
  std::string deadlock() const {
    int counts[4] = {0, 0, 0, 0};
    for (const Fiber& fiber : fibers_) ++counts[static_cast<int>(fiber.state)];
    char text[160];
    snprintf(text, sizeof text,
             "divergence: %d lanes wait in a simdgroup operation, %d at a threadgroup barrier, %d have ended", counts[1],
             counts[2], counts[3]);
    return text;
  }

  std::vector<Fiber> fibers_;
  std::vector<Cell> cells_;
  alignas(16) char memory_[GROUP_MEMORY];
  char* stacks_;
  jmp_buf scheduler_;
  Kernel kernel_ = nullptr;
  void* arguments_ = nullptr;
  std::string failure_;
  unsigned random_;
  int current_ = 0;
};

inline Machine*& machine() {
  static thread_local Machine* running = nullptr;
  return running;
}

}  // namespace host
}  // namespace kv
