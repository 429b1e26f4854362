// Package data feeds training: it opens corpora, and makes batches of them.
//
// [Open] opens a corpus, a [Source] of documents of tokens: Megatron's indexed
// datasets, .npy arrays, JSON lines or text. [Causal] and [Masked] cut it into
// [Examples] for language models; [OpenClassification] and [OpenPairs] read
// examples with labels. A [Loader] puts examples into batches of named arrays.
//
// Nothing depends on what was loaded before. The order of an epoch is a
// permutation that can be computed at any place, random numbers are keyed by
// seed, epoch and place (Philox), and a [Position] is the number of the next
// example: to resume is to [Loader.Seek] it, at once. Several workers load
// disjoint rows of the batches that one would load.
package data
