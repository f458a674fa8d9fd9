// Which words of two texts are not in the other, in order (longest common subsequence).

const MOST_WORDS = 1200;
const segmenter = typeof Intl.Segmenter === "function" ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;

// Words as readers see them, also where a script has no spaces; what lies between them is kept.
function wordsOf(text) {
  if (segmenter) return [...segmenter.segment(text)].map(({ segment, isWordLike }) => ({ text: segment, word: isWordLike || !/^\s+$/.test(segment) }));
  return text.split(/(\s+)/).filter(Boolean).map((part) => ({ text: part, word: !/^\s+$/.test(part) }));
}

// Places of the words of `one` that `two` has too, at places that rise with them.
function commonWords(one, two) {
  const wide = two.length + 1;
  const length = new Uint16Array((one.length + 1) * wide);
  for (let i = one.length - 1; i >= 0; i -= 1) {
    for (let j = two.length - 1; j >= 0; j -= 1) {
      length[i * wide + j] = one[i] === two[j] ? length[(i + 1) * wide + j + 1] + 1 : Math.max(length[(i + 1) * wide + j], length[i * wide + j + 1]);
    }
  }
  const kept = new Set();
  for (let i = 0, j = 0; i < one.length && j < two.length;) {
    if (one[i] === two[j]) {
      kept.add(i);
      i += 1;
      j += 1;
    } else if (length[(i + 1) * wide + j] >= length[i * wide + j + 1]) i += 1;
    else j += 1;
  }
  return kept;
}

// The text as nodes; words that `other` lacks are marked by an element of this name.
function marked(text, other, tag) {
  const parts = wordsOf(text);
  const mine = parts.filter(({ word }) => word).map((part) => part.text).slice(0, MOST_WORDS);
  const theirs = wordsOf(other).filter(({ word }) => word).map((part) => part.text).slice(0, MOST_WORDS);
  const kept = commonWords(mine, theirs);
  const nodes = [];
  let at = 0;
  let open = null;
  for (const part of parts) {
    const differs = part.word && at < mine.length && !kept.has(at);
    if (part.word) at += 1;
    if (differs) {
      if (!open) nodes.push(open = el(tag));
      open.append(part.text);
    } else if (open && !part.word && at < mine.length && !kept.has(at)) open.append(part.text);
    else {
      open = null;
      nodes.push(part.text);
    }
  }
  return nodes;
}
