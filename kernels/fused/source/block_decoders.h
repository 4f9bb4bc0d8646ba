// The same of formats with small groups, whose scales would cost more behind the products than in them.

namespace kv {

// ggml's blocks of 32 channels: scale, bias and codes together. A lane takes a whole block, or the same part of its low and
// of its high nibbles; blocks that are no multiple of four bytes lie in pairs, so that words of either are found.
template <typename F, int SHARERS>
struct Decoder<F, SHARERS, DECODES_BLOCKS> {
  KV_CONST int most_run = SHARERS == 4 && F::bits < 8 ? 32 : 16;
  KV_CONST int run = F::dim % (SHARERS * most_run) == 0 ? most_run : F::dim % (SHARERS * 16) == 0 ? 16 : 8;
  KV_CONST int unit = SHARERS * run, words = run / 4, codes = 4, pairs = 2;
  KV_CONST int block = F::row_bytes / F::groups, data = run * least(F::bits, 8) / (F::bits == 8 ? 32 : F::bits * 8);
  KV_CONST bool biased = F::meta == META_BIAS, split = block % 4 != 0;
  KV_CONST int center = biased ? 0 : 1 << (F::bits - 1);
  KV_CONST int table = 4;

  struct Raw {
    uint fields, fifths, codes[data];
  };
  static KV_FUNC constexpr float gain() { return 1.0f; }
  static KV_FUNC constexpr int channel(int position) {
    return run == 32 || F::bits == 8
               ? position
               : (position & ~31) + (position & 31) / run * (run / 2) + position % run % (run / 2) +
                     (position % run < run / 2 ? 0 : 16);
  }
  static KV_FUNC uint word(KV_DEVICE(const uchar) p, int i) {
    Words<1> x;
    load_words<1>(p + 4 * i, x);
    return x.w[0];
  }

  static KV_FUNC bool late(int member) { return split && (member * run / 32 & 1); }  // its block begins within a word
  // Bytes from a token to the word in which the block of a member's run of unit 0 begins.
  static KV_FUNC int offset(int member) { return member * run / 32 * block - (late(member) ? 2 : 0); }

  template <typename G>
  static KV_FUNC void load(KV_THREAD const Rows<G>& rows, int token, int u, int member, KV_THREAD Raw& raw) {
    const int at = token * F::row_bytes + u * (unit / 32) * block, before = (F::fifths ? 1 : 0) + (split ? 0 : 1);
    KV_DEVICE(const uchar) head = rows.codes + at;
    KV_DEVICE(const uchar) own = rows.codes + member * run % 32 / run * (4 * data) + at;
    const uint first = word(head, 0);
    raw.fields = !split ? first : late(member) ? merge_high(first, first) : merge_low(first, first);
    if (F::fifths) raw.fifths = split ? behind(first, word(head, 1), late(member)) : word(head, 1);
    if (split) {
      uint now = word(own, before);
      KV_UNROLL for (int i = 0; i < data; ++i) {
        const uint next = word(own, before + 1 + i);
        raw.codes[i] = behind(now, next, late(member));
        now = next;
      }
    } else {
      KV_UNROLL for (int i = 0; i < data; ++i) raw.codes[i] = word(own, before + i);
    }
  }
  // The halves after the first of two words, or the second word.
  static KV_FUNC uint behind(uint first, uint second, bool late) { return late ? second : joined_halves(first, second); }

  // A code of either half of x, at bit `place`, its fifth bit at `fifth` of the halves of `fifths`.
  static KV_FUNC Pair number(uint x, int place, uint fifths, int fifth) {
    uint magic = F::bits == 8 ? 0x64806480u : 0x64006400u;
    if (F::fifths) {
      const int shift = fifth - (place + 4), left = shift < 0 ? -shift : 0, right = shift < 0 ? 0 : shift;
      magic = and_xor((fifths << left) >> right, 0x00100010u << place, magic);
    }
    const uint mask = F::bits == 8 ? 0x00ff00ffu : 0x000f000fu << place;
    const float step = 1.0f / float(1 << place);
    return pair_fma(pair_from_bits((x & mask) ^ magic), step, -1024.0f * step - float(center));
  }
  template <typename N>
  static KV_FUNC N scaled(Pair code, N scale, N bias) {
    const N x = Numbers<N>::of(code);
    return biased ? Numbers<N>::times_plus(x, scale, bias) : Numbers<N>::times(x, scale);
  }
  static KV_FUNC constexpr int word_of(int w) { return F::bits == 8 ? w : w % (words / 2); }
  static KV_FUNC constexpr int place_of(int w) { return F::bits < 8 && w >= words / 2 ? 4 : 0; }  // of a nibble

  template <typename N>
  static KV_FUNC void decode(KV_THREAD const Raw& raw, int, int member, KV_SHARED(uint), KV_THREAD N (&out)[run / 2]) {
    const N scale = Numbers<N>::of(pair_from_bits(biased ? merge_low(raw.fields, raw.fields) : raw.fields));
    const N bias = Numbers<N>::of(pair_from_bits(merge_high(raw.fields, raw.fields)));
    uint fifths[2] = {0u, 0u};  // of low and of high nibbles: those of channels 4 n and 4 n + 1, and two channels on
    if (F::fifths) {
      const uint ours = raw.fifths >> (member * run % 32 / 2);
      const uint low = ours & 0x33333333u, high = (ours >> 2) & 0x33333333u;
      fifths[0] = merge_low(low, high);
      fifths[1] = merge_high(low, high);
    }
    KV_UNROLL for (int w = 0; w < words; ++w) {
      KV_UNROLL for (int i = 0; i < 2; ++i)
        out[2 * w + i] = scaled<N>(number(raw.codes[word_of(w)] >> (8 * i), place_of(w), fifths[place_of(w) / 4],
                                          4 * word_of(w) + i), scale, bias);
    }
  }
  // Of two tokens: out[2 j] what `decode` has in the lower halves of its j-th pairs, out[2 j + 1] in the upper ones.
  static KV_FUNC void decode_two(KV_THREAD const Raw& a, KV_THREAD const Raw& b, int, int member, KV_SHARED(uint),
                                 KV_THREAD Pair (&out)[run]) {
    const Pair scale = pair_from_bits(merge_low(a.fields, b.fields)), bias = pair_from_bits(merge_high(a.fields, b.fields));
    uint fifths[2] = {0u, 0u};
    if (F::fifths) {
      const int shift = member * run % 32 / 2;
      fifths[0] = merge_low(a.fifths, b.fifths) >> shift;  // what comes from the other half is not looked at
      fifths[1] = merge_high(a.fifths, b.fifths) >> shift;
    }
    KV_UNROLL for (int w = 0; w < words; ++w) {
      const uint first = a.codes[word_of(w)], second = b.codes[word_of(w)];
      KV_UNROLL for (int side = 0; side < 2; ++side) {
        const uint x = side ? merge_high(first, second) : merge_low(first, second);
        KV_UNROLL for (int i = 0; i < 2; ++i)
          out[2 * (2 * w + i) + side] = scaled<Pair>(number(x >> (8 * i), place_of(w), fifths[place_of(w) / 4],
                                                            4 * word_of(w) + 2 * side + i), scale, bias);
      }
    }
  }
};

// nvfp4: floats of 4 bits in groups of 16 under one of 8 bits, whose products float16 holds exactly.
template <typename F, int SHARERS>
struct Decoder<F, SHARERS, DECODES_SMALL> {
  typedef Flat<F, SHARERS> Codes;
  typedef Slices<Codes, SHARERS> Cut;
  KV_CONST int run = Cut::run, words = Cut::words, codes = Cut::codes, pairs = Cut::pairs, unit = Cut::unit;
  KV_CONST int table = 4;

  struct Raw {
    Run<Cut::words> codes;
    uint scale;
  };
  static KV_FUNC constexpr float gain() { return 128.0f; }
  static KV_FUNC constexpr int channel(int position) { return position; }
  static KV_FUNC int offset(int member) { return run_offset<Codes, SHARERS>(member); }

  template <typename G>
  static KV_FUNC void load(KV_THREAD const Rows<G>& rows, int token, int u, int member, KV_THREAD Raw& raw) {
    load_slice<Codes, SHARERS>(rows.codes + token * F::row_bytes, u, member, raw.codes);
    raw.scale = load_8(bytes_of(rows.scales) + member * run / F::group + (token * F::groups + u * (unit / F::group)));
  }
  template <typename N>
  static KV_FUNC void decode(KV_THREAD const Raw& raw, int, int, KV_SHARED(uint), KV_THREAD N (&out)[run / 2]) {
    // Its fields in those of a float16 are off by 2^-8, those of codes by 2^-14.
    const N scale = Numbers<N>::times(Numbers<N>::of(pair_from_bits(raw.scale * 0x00800080u)), Numbers<N>::both(32768.0f));
    KV_UNROLL for (int w = 0; w < words; ++w) {
      KV_UNROLL for (int i = 0; i < pairs; ++i)
        out[w * pairs + i] =
            Numbers<N>::times(Numbers<N>::of(pair_from_bits(minifloat_fields<Codes>(raw.codes.w[w], i))), scale);
    }
  }
  static KV_FUNC void decode_two(KV_THREAD const Raw& a, KV_THREAD const Raw& b, int, int, KV_SHARED(uint),
                                 KV_THREAD Pair (&out)[run]) {
    const Pair scale = pair_times(pair_from_bits((a.scale << 7) | (b.scale << 23)), make_pair(32768.0f, 32768.0f));
    KV_UNROLL for (int w = 0; w < words; ++w) {
      const uint first = merge_low(a.codes.w[w], b.codes.w[w]), second = merge_high(a.codes.w[w], b.codes.w[w]);
      KV_UNROLL for (int i = 0; i < pairs; ++i) {
        out[2 * (w * pairs + i)] = pair_times(pair_from_bits(minifloat_fields<Codes>(first, i)), scale);
        out[2 * (w * pairs + i) + 1] = pair_times(pair_from_bits(minifloat_fields<Codes>(second, i)), scale);
      }
    }
  }
};

}  // namespace kv
