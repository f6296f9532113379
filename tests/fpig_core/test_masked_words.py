import pytest
import torch
import torch.nn.functional as nnf
from open_clip.tokenizer import SimpleTokenizer

from fpig_core.backbone import END, tokenize
from fpig_core.masked_words import MASK, guessing_loss, hide_words, is_word
from fpig_core.rows import Noise


def test_the_mask_is_a_piece_that_no_text_has():
    tokenizer = SimpleTokenizer()
    piece = tokenizer.decoder[MASK]
    assert [tokenizer.byte_decoder[letter] for letter in piece] == [0xFF]
    assert MASK not in tokenize(["ÿ Ā ￿ 𝟙 \xff"], context_length=77)


def test_words_end_with_the_end():
    word = tokenize(["a cat", ""], context_length=6)
    assert is_word(word).tolist() == [[True] * 4 + [False] * 2, [True] * 2 + [False] * 4]


def test_only_words_are_hidden_and_about_the_share_of_them():
    word = tokenize(["a b c d e f g h", "a cat sits"] * 200, context_length=12)
    hidden = hide_words(word, share=0.3, noise=Noise(seed=0))
    assert torch.equal(hidden.word_BL, torch.where(hidden.is_hidden_BL, MASK, word))
    allowed = is_word(word) & (word != END)
    allowed[:, 0] = False
    assert not (hidden.is_hidden_BL & ~allowed).any()
    assert hidden.is_hidden_BL.sum().item() / allowed.sum().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(hide_words(word, share=1.0, noise=Noise(seed=0)).is_hidden_BL, allowed)


def test_hidden_words_follow_the_place_in_the_global_batch():
    word, noise = tokenize(["a b c d e f g h"] * 6, context_length=12), Noise(seed=3)
    whole = hide_words(word, share=0.5, noise=noise).is_hidden_BL
    parts = [hide_words(word[start : start + 2], share=0.5, noise=noise.at(start)).is_hidden_BL for start in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), whole)
    assert len({tuple(row) for row in whole.tolist()}) > 3


def test_guesses_are_counted_at_their_own_text():
    generator = torch.Generator().manual_seed(0)
    word = torch.randint(0, 7, (3, 4), generator=generator)
    is_hidden = torch.tensor([[False, True, True, False], [False] * 4, [True, False, False, True]])
    logit = torch.randn(4, 7, generator=generator)
    wanted, number = [0.0, 0.0, 0.0], 0
    for text in range(3):
        for place in range(4):
            if is_hidden[text, place]:
                wanted[text] -= nnf.log_softmax(logit[number], dim=-1)[word[text, place]].item()
                number += 1
    torch.testing.assert_close(guessing_loss(logit, word, is_hidden), torch.tensor(wanted))
