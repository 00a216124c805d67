def test_smoke(network):
    network.settle()
    s = network.open()
    network.request(0, s, 1)
    network.settle()
    assert network.replies(1)[0].result == b"1. x1"
    network.run(3)
    network.assert_converged(0, 1, 2)
    network.stop(0)
    network.run(30)
    network.assert_converged(1, 2)
    assert network.state(1).view == 1
