"""Image decoding: every encoding against the array it was made from."""

import cv2
import numpy as np
import pytest

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.images import decode_compressed, decode_raw, ENCODINGS, read_image

H, W = 6, 7


def values(encoding):
    bits, channels, _ = ENCODINGS[encoding]
    rng = np.random.default_rng(1)
    return rng.integers(0, 2 ** bits, (H, W, channels)).astype(np.uint8 if bits == 8
                                                               else np.uint16)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', sorted(n for n, e in ENCODINGS.items() if e[1] != 2))
def test_every_encoding_step_and_byte_order(encoding, padding, big):
    bits, channels, order = ENCODINGS[encoding]
    pixels = values(encoding)
    stored = pixels.astype('>u2' if big else '<u2') if bits == 16 else pixels
    rows = stored.reshape(H, -1).view(np.uint8).reshape(H, -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=171)
    picture = decode_raw(data.tobytes(), encoding=encoding, height=H, width=W,
                         step=data.shape[1], is_bigendian=big)
    expected = pixels[..., :3] if channels > 1 else pixels[..., 0]
    expected = expected[..., ::-1] if order == 'bgr' else expected
    assert picture.bits == bits
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.mosaic == (order if order not in ('mono', 'rgb', 'bgr') else '')


@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'])
def test_yuv_is_the_colour_it_was_made_from(encoding):
    """BT.601 in video range: black is 16, white 235; rounding to 8 bits leaves two levels."""
    rgb = np.repeat(values('rgb8').reshape(H * W, 3)[:H * 3].reshape(H, 3, 3), 2, axis=1)
    r, g, b = np.moveaxis(rgb / 255, -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    luma, u, v = 16 + 219 * y, 128 + 112 * (b - y) / 0.886, 128 + 112 * (r - y) / 0.701
    chroma = np.where(np.arange(6) % 2, v, u)
    pair = (chroma, luma) if encoding in ('yuv422', 'uyvy') else (luma, chroma)
    data = np.pad(np.stack(pair, -1).round().astype(np.uint8).reshape(H, 12), ((0, 0), (0, 5)))
    picture = decode_raw(data.tobytes(), encoding=encoding, height=H, width=6, step=17)
    assert np.abs(picture.pixels.astype(int) - rgb).max() <= 3


def test_yuv_of_odd_width_is_malformed():
    with pytest.raises(InputError, match='pairs of pixels'):
        decode_raw(bytes(2 * H * W), encoding='yuv422', height=H, width=W)


def test_bayer_patterns_give_the_colour_of_a_uniform_scene():
    colour = np.array([200, 120, 40], np.uint8)
    for pattern in ('rggb', 'bggr', 'gbrg', 'grbg'):
        mosaic = np.zeros((8, 8), np.uint8)
        for i, letter in enumerate(pattern):
            mosaic[i // 2::2, i % 2::2] = colour['rgb'.index(letter)]
        picture = decode_raw(mosaic.tobytes(), encoding=f'bayer_{pattern}8', height=8, width=8)
        np.testing.assert_array_equal(picture.rgb()[2:-2, 2:-2],
                                      np.broadcast_to(colour, (4, 4, 3)))


def test_compressed_png_is_exact_and_keeps_colour_order():
    rgb = values('rgb8')
    ok, data = cv2.imencode('.png', rgb[..., ::-1])
    assert ok
    picture = decode_compressed(data.tobytes(), format='rgb8; png compressed bgr8')
    np.testing.assert_array_equal(picture.pixels, rgb)
    assert not picture.lossy


def test_jpeg_is_marked_lossy_and_mosaics_keep_their_pattern():
    gray = np.full((16, 16), 99, np.uint8)
    data = cv2.imencode('.jpg', gray)[1].tobytes()
    picture = decode_compressed(data, format='bayer_rggb8; jpeg compressed mono8')
    assert picture.lossy and picture.mosaic == 'rggb' and abs(picture.pixels.mean() - 99) < 1


def test_16_bit_png_message():
    for encoding in ('mono16', 'rgb16'):
        pixels = values(encoding)
        file = cv2.imencode('.png', pixels[..., ::-1])[1].tobytes()
        picture = decode_compressed(file, format=f'{encoding}; png compressed')
        assert picture.bits == 16
        np.testing.assert_array_equal(picture.pixels, pixels.squeeze())


def test_16_bit_png_file(tmp_path):
    pixels = values('mono16')[..., 0]
    cv2.imwrite(str(tmp_path / 'a.png'), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png').pixels, pixels)


@pytest.mark.parametrize(('change', 'sentence'), [
    ({'encoding': 'yuv'}, 'record one of'), ({'step': 3}, 'a row of 7 rgb8 pixels'),
    ({'height': 60}, 'truncated'), ({'width': 0}, 'not empty')])
def test_malformed_messages_end_in_a_sentence(change, sentence):
    fields = {'encoding': 'rgb8', 'height': H, 'width': W, 'step': W * 3, **change}
    with pytest.raises(InputError, match=sentence):
        decode_raw(bytes(H * W * 3), **fields)


def test_garbage_is_not_an_image():
    with pytest.raises(InputError, match='jpeg or png'):
        decode_compressed(b'not an image', format='jpeg')
    with pytest.raises(InputError, match='jpeg or png'):
        decode_compressed(b'')
