"""A page in a Chromium: what it shows, and what is done to it."""

import numpy as np


def visit(browser, page, width=1200):
    """Open a page from disk, in a window of so many pixels."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())


def run(browser, script, *arguments):
    return browser.execute_script(f"return {script}", *arguments)


def shown(browser):
    return run(browser, "[...document.querySelectorAll('#gallery .card')].map(c => c.dataset.key)")


def boxes(browser):
    lines = run(browser, "items.map(i => cards.get(i).figure.dataset.box)")
    return np.array([[float(edge) for edge in line.split()] for line in lines])


def objects(browser):
    lines = run(browser, "items.map(i => cards.get(i).figure.dataset.objects)")
    return [[float(edge) for edge in line.split()] for line in lines]


def choose(browser, name, value):
    script = "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
    browser.execute_script(script + "s.dispatchEvent(new Event('change'))", name, value)


def wait(browser, condition):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 20, poll_frequency=0.02).until(condition)


def press(browser, key):
    browser.switch_to.active_element.send_keys(key)
